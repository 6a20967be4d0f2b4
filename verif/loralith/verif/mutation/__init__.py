"""Mutants of the RTL: one change of the syntax tree of one block, located by what it assigns.

`change` says what a mutant is and makes its source, `pattern` and `sites` find its place, `generic` makes mutants of every operator of a
block, `force` puts one into place in this process, and `emission` tells whether it changes the netlist. The formal properties and
`loralith mutate` both build on it.
"""

from .change import Change, Edit, MutationError

__all__ = ["Change", "Edit", "MutationError"]
