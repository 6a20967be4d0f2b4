"""The array's use on the LoRA layers of published models: which shapes, how many cycles each, and what limits them."""
