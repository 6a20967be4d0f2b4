"""ZOODiP: one token's embedding, trained with forward passes alone.

- `finite_differences`: perturbations, and how well their differences follow the true derivative. `subspace`: which directions are kept.
- `token`: the file of a token. `method`: the training.
"""
