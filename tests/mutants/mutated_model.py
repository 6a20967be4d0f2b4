"""A pytest plugin of `loralith mutate`: the native model of `tiny` is the mutant's, and tests of other configurations are skipped."""

import os
from pathlib import Path

import pytest

from loralith.device.native import build
from loralith.spec.config import Config

FOLDER = Path(os.environ["LORALITH_MUTANT"])


def library(config: Config, *, trace: bool = False, source: Path | None = None, profiled: bool = False) -> Path:
    if config.name != "tiny" or trace or source or profiled:
        pytest.skip("mutants are of tiny, without waveforms and profiles")
    return FOLDER / build.LIBRARY


def verilog(config: Config) -> Path:
    if config.name != "tiny":
        pytest.skip("mutants are of tiny")
    return FOLDER / f"{build.MODULE}.v"


build.build, build.verilog = library, verilog
