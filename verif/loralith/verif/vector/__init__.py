"""The vector unit's operations on whole torch tensors, written from docs/vector_unit.md."""
