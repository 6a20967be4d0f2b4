"""A small diffusion model of the project's own, its data and its training objective, in plain FP32 torch.

- `unet`, `prompt`, `schedule`: the model. `pretraining` reproduces its weights in assets/; `classifier` judges its samples.
- `data`, `digits`, `subject`: what it learns from. `objective`: the loss of a step. `draws`, `determinism`: the same bits each time.
- `peft_adapter`: LoRA adapters of a model. `published`: larger U-Nets by name.
"""
