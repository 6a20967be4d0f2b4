"""TuneQDM: the scales of a quantized model, by groups of time steps.

- `code_layers`: layers of codes with trained scales, and the U-Net that sends each image to the expert of its time step.
- `mapped_codes`: such layers on a device. `scales_file`: the file of the scales. `method`: the training.
"""
