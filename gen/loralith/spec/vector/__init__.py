"""The vector unit, declared once: its numbers, its function tables, its instructions. Standard library only."""
