"""One module per block: its harnesses and mutants, as ``PROOFS``."""
