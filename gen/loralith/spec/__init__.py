"""One source of truth for hardware, host, reference and documents. Standard library only."""
