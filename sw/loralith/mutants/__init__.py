"""Mutants: the hardware with one thing wrong, and whether the tests see it. `loralith mutate` runs them.

`catalogue` reads what is wrong, `model` builds it, `campaign` runs the tests on it and keeps the verdicts.
"""

from loralith.mutants.campaign import Campaign, Verdict
from loralith.mutants.catalogue import CONTROL, Mutant, MutantError, read_catalogue

__all__ = ["CONTROL", "Campaign", "Mutant", "MutantError", "Verdict", "read_catalogue"]
