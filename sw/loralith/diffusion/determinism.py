"""Torch settings under which a run gives the same bits again.

The number of threads decides the order of sums, so it is fixed while a model trains or samples, to one where nothing else is said: numpy's
too, whose small products lose many times what a second thread gains. Another torch version or another CPU family may still choose other
kernels; the report names both.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits

THREADS = 1


@contextmanager
def repeatable(count: int = THREADS) -> Iterator[None]:
    """``count`` threads and deterministic kernels inside, the caller's settings and global random state after."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    state = torch.get_rng_state()
    torch.set_num_threads(count)
    torch.use_deterministic_algorithms(True)
    try:
        with threadpool_limits(count, "blas"):
            yield
    finally:
        torch.set_rng_state(state)
        torch.use_deterministic_algorithms(strict)
        torch.set_num_threads(threads)


def seed_global(purpose: str, *numbers: int) -> None:
    """Seeds torch's global generator, which layers' initializations draw from; call it inside `repeatable`."""
    torch.set_rng_state(generator(purpose, *numbers).get_state())


def generator(purpose: str, *numbers: int) -> torch.Generator:
    """A CPU generator whose state is a function of `purpose` and `numbers` alone (SHA-256, first 8 bytes)."""
    text = "/".join([purpose, *(str(int(number)) for number in numbers)])
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little", signed=True)
    return torch.Generator("cpu").manual_seed(seed)
