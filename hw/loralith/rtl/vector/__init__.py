"""The vector unit: lanes of floating-point stages, their memories and their sequencer.

Numbers: ``loralith.spec.vector``; source: docs/vector_unit.md.
"""
