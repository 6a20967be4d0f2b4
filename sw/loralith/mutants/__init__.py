"""Whether the tests see a mutant of the hardware. `loralith mutate` runs them.

`loralith.verif.mutation` says what a mutant is; `mutant_model` builds it, `campaign` runs the tests on it and keeps the verdicts.
"""

from loralith.mutants.campaign import Campaign, Verdict
from loralith.mutants.mutant_error import MutantError

__all__ = ["Campaign", "MutantError", "Verdict"]
