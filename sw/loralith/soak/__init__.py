"""Random work on simulated hardware: `products` compared with numpy, command lists (`list_runner`) with the oracle of `verif.lists`.

`loralith soak` runs it.
"""
