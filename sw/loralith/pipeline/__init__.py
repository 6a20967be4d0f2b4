"""Fine-tuning of diffusers pipelines: `loralith finetune --model FOLDER`.

- `settings`: what a run is told. `model_folder`: the pipeline's folder. `photos`: pictures and captions. All three load no torch.
- `families`: one small class for each family of pipelines.
- `encode`, `cache`: latents and text embeddings, computed once. `objective`: the scheduler's noise, targets and weights.
- `methods`: what trains. `run`: a run's state and checkpoint. `finetune`: the loop. `report`: its page.
"""
