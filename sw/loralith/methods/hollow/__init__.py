"""Hollowed Net: LoRA on the outer blocks of a U-Net whose inner blocks are not resident.

- `parts`: which blocks may be left out. `hollowed_unet`: the U-Net without them. `boundary_store`: the tensors that stand for
  them. `method`: the training.
"""
