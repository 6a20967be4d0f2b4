"""Random raw command lists and an oracle of what they do: written from docs/machine.md and docs/numerics.md, sharing `loralith.spec` only.

`generate` draws legal lists, `illegal` breaks one command of one, `oracle` executes a list strictly in list order, `oracle_checks` says
which command is refused and how, `drawn_tokens` orders what conflicts, `legal` finds lists that are not, `shrink` makes a
failing case small.

Of the vector unit: `drawn_vector` draws programs and VECTORs, `drawn_vector_transfer` loads and stores; `vector_oracle` runs
a VECTOR on `vector_state` with the numbers of `vector_numbers`, `vector_footprint` says what one touches. `bins` counts what has been done.
"""
