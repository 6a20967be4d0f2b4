"""A whole training step in the device's numbers, emulated in torch: docs/step.md defines them.

`format` rounds to the vector unit's format, `programs` holds the operators that are not products, `step_products` the INT8 products,
`mode` puts both in the place of torch's operators, forward and backward, and `optimizer` updates the adapter.
"""
