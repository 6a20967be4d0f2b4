"""A whole training step on the device.

- `capture`, `lowering`: from torch to a step graph; `operator_programs`, `products`, `moves`, `norms`, `fused_attention`: its operators as
  nodes; `builder`, `values`: what writes nodes; `optimizer`: AdamW and SGD as nodes.
- `zeroth_order`: ZOODiP's differences and estimate as nodes; `scale_tables`: TuneQDM's tables of scales.
- `program`: a graph, compiled by `compiler.step`, on a device; `submission`: several steps as one list; `tables`: inputs in
  device memory; `host`: what the host computes.
- `memory`, `saved`: device memory of a step.
- `operators`, `cost_model`: what a step's operators would cost by a model (docs/step.md); `step_work`: what its list costs.
"""
