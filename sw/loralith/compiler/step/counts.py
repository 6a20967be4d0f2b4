"""Counts, sums of integers, of which a word holds that of a part exactly, so that the total of all parts is rounded once."""

from loralith.spec.numerics import Q8_MAX

__all__ = ["PART", "PART_COUNT"]

PART = 256
"""Elements of a part of a reduction, at most."""
PART_COUNT = float(Q8_MAX * PART)
"""What a part's count is at most: below 2^17, so that a word holds it exactly."""
