"""Fixtures that every folder of tests shares."""

import os
from pathlib import Path

import pytest

from helpers import run_record
from loralith.toolchain import Verilator, find_verilator


def pytest_configure(config: pytest.Config) -> None:
    # Before numpy and torch load, for subprocesses too: tests run side by side, their tensors are small, and a second thread of each mostly
    # spins in wait for the first. Tests that are about threads set their number themselves.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if "LORALITH_MUTANT" not in os.environ:  # what tests do on a mutant is a verdict of its own
        run_record.register(config)


@pytest.fixture(scope="session")
def repo() -> Path:
    """The checkout's root folder."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def golden_layers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the golden vectors, as `python -m loralith.verif.golden` writes them; layer_I<I>_O<O>_T<T>_r<r>.safetensors."""
    from loralith.verif.golden import generate

    folder = tmp_path_factory.mktemp("golden")
    generate(folder)
    return folder


@pytest.fixture
def verilator(monkeypatch: pytest.MonkeyPatch) -> Verilator:
    """A usable Verilator, with its environment set for this test: cocotb's runner looks at `os.environ` only."""
    found = find_verilator()
    for name, value in found.env.items():
        monkeypatch.setitem(os.environ, name, value)
    return found
