"""Hollowed Net: LoRA on the outer blocks of a U-Net whose inner blocks are not resident.

- `parts`: which blocks may be left out. `unet`: the U-Net without them. `store`: the tensors that stand for them. `method`: the training.
"""
