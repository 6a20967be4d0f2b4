"""Where data lies: matrices in DRAM (`layout`), rows of the on-chip memories (`regions`), free ranges of an address space (`free_list`)."""
