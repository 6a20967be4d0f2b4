"""Random raw command lists and an oracle of what they do: written from docs/machine.md and docs/numerics.md, sharing `loralith.spec` only.

`generate` draws legal lists, `illegal` breaks one command of one, `oracle` executes a list strictly in list order, `oracle_checks` says
which command is refused and how, `drawn_tokens` orders what conflicts, `legal` finds lists that are not, `shrink` makes a
failing case small.
"""
