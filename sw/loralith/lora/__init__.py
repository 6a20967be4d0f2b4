"""LoRA layers on the accelerator: the host's half of the numbers. Runs on a board: numpy, no torch."""
