"""Random draws that depend only on what they are for.

Each draw has a generator of its own, seeded by a hash of its purpose and of the numbers that name it (seed, step, ...). No draw depends on
how many came before it: a resumed run and a run on another device see the same images, time steps and noise.
"""

import hashlib

import torch


def generator(purpose: str, *numbers: int) -> torch.Generator:
    """A CPU generator whose state is a function of `purpose` and `numbers` alone (SHA-256, first 8 bytes)."""
    text = "/".join([purpose, *(str(int(number)) for number in numbers)])
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little", signed=True)
    return torch.Generator("cpu").manual_seed(seed)
