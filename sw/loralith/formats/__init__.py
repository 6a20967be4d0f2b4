"""Files that other programs share, or that a run leaves and reads again; nothing of the accelerator.

- `adapter_file`, `adapter_checks`: LoRA adapters of PEFT, diffusers and kohya.
- `checkpoint`: files of tensors, and what a run resumes from. `run_folder`: the output folder of a run and the names in it.
- `unet_config`: a U-Net's configuration of diffusers. `image_file`: pictures.
"""
