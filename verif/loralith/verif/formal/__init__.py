"""Formal properties of the blocks that are small and fatal, and the mutants that show that each property can fail.

A ``Proof`` is a harness around a block, the claims it makes, how they are proved, and the mutants. ``PROOFS`` lists them;
``loralith gen`` writes them as a table, docs/generated/formal.md.
"""
