"""ZOODiP: one token's embedding, trained with forward passes alone.

- `gradient`: perturbations, finite differences, and how well they follow the true derivative. `subspace`: which directions are kept.
- `token`: the file of a token. `method`: the training.
"""
