"""Where data lies: matrices in DRAM (`layout`), rows of the on-chip memories (`regions`)."""
