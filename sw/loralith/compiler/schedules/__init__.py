"""Schedules: what is computed when, as commands.

- `emit`: commands from layouts and regions.
- `matmul`, `chain`: products of any shape, of one and of two segments.
- `pass_plan`, `passes`, `gradient`, `layer_lists`: a LoRA layer. `shared_text`, `training_step`: many layers as one list.
- `example`: a small list that uses every kind of command.
"""
