"""One kind of mapped module each, a subclass of `mapping.mapped.Mapped` with its autograd function.

- `lora_linears`: PEFT's LoRA linears. `frozen_modules`: frozen linears and convolutions, with INT8 or two-word activations.
- `attention_modules`: attention's products; `attention_masks`: its masks.

`attach_model` says which kind maps which class of torch. A kind that belongs to one training method is in that method's folder.
"""
