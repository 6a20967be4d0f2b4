"""Runs of `loralith finetune`, whatever the method: the loop, its state, and what is measured of a run.

- `loop`: a fine-tune from its settings to its report. `session`: its state, to a checkpoint and back. `resume`: going on with a run.
- `sizes`: whether a run fits the memory. `evaluate`: how well a model draws. `method_memory`: bytes of a step by method.
- `board_run`: a fine-tune on the simulated board beside the reference device.
- `attaching`: a method's model on a device; `step_training`: whole steps of it, `step_plans`: what they are, by method.
- `verification`: every integer of a run compared with the reference in `verif`.
"""
