"""A small diffusion model of the project's own, and the fine-tuning that the accelerator is for.

`pretrain` reproduces the weights in assets/, `finetune` personalizes the model to a held-out digit with PEFT LoRA. Everything is
plain FP32 torch; the accelerator is attached through `finetune(..., attach=...)`.
"""
