"""One kind of mapped module each, a subclass of `mapping.mapped.Mapped` with its autograd function.

- `lora_linears`: PEFT's LoRA linears. `linears_and_convolutions`: frozen linears and convolutions, with INT8 or two-word activations.
- `lora_parts`: the parts of any other adapter, each by itself. `trained_modules`: layers that are trained themselves.
- `attention_modules`: attention's products; `function_attention`: those of torch's own function; `attention_masks`: masks of both.

`attach_model` says which kind maps which class of torch. A further kind is a subclass of `Mapped` here, named there and in
`mapping/planning/trace.py`. A kind that belongs to one training method is in that method's folder.
"""
