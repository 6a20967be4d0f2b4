"""A whole training step on the device, before there is hardware for it: the operators of a step, and what they cost by a model.

`operators` finds them by running a model on torch's meta device, `cost_model` counts array, vector unit and bus. docs/step.md
tells what the model assumes.
"""
