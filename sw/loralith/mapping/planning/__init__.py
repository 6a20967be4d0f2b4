"""What a training step of a whole model takes, before and while it runs.

- `trace`: the step as shapes, on torch's meta device. `step_plan`: what it costs on a device. `saved_memory`: what is saved for the
  backward pass, measured.
"""
