"""What each method is told beside the settings that all share, checked before anything is read or written. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from loralith.errors import LoralithError

__all__ = ["OPTIONS", "HollowOptions", "LoraOptions", "Options", "SettingsError", "TuneqdmOptions", "ZoodipOptions", "real", "whole"]


class SettingsError(LoralithError):
    """A setting outside its range: the message names the setting, its value and the range."""


def whole(name: str, value: object, low: int, high: int | None = None) -> None:
    """Raises SettingsError unless ``value`` is an integer of low..high."""
    wanted = f"an integer of at least {low}" if high is None else f"an integer from {low} to {high}"
    if not isinstance(value, int) or isinstance(value, bool) or value < low or (high is not None and value > high):
        raise SettingsError(f"{name} must be {wanted}, not {value!r}")


def real(name: str, value: object, *, positive: bool = False) -> None:
    """Raises SettingsError unless ``value`` is a finite number, above 0 where ``positive``."""
    wanted = "a finite number above 0" if positive else "a finite number"
    right = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not right or (positive and value <= 0):  # type: ignore[operator]
        raise SettingsError(f"{name} must be {wanted}, not {value!r}")


@dataclass(frozen=True)
class Options:
    """Of one method.

    Class members: ``usual``, its own defaults of shared settings on the command line; ``adapter``, whether it trains LoRA; ``verifiable``,
    whether `--verify` has a reference for its products beside that of whole steps; ``whole``, whether a device runs all that multiplies.
    """

    usual: ClassVar[Mapping[str, Any]] = {"batch": 4, "lr": 3e-3, "modules": "lora"}
    adapter: ClassVar[bool] = True
    verifiable: ClassVar[bool] = True
    whole: ClassVar[bool] = False

    def prepared(self, steps: int, batch: int) -> int:
        """How much a run of ``steps`` steps of ``batch`` images prepares before its first step. Where two numbers of steps prepare alike,
        the longer run begins with the bits of the shorter one."""
        return 0


@dataclass(frozen=True)
class LoraOptions(Options):
    """LoRA has none."""


@dataclass(frozen=True)
class HollowOptions(Options):
    """Hollowed Net.

    Members
    -------
    hollow : what is left out while training: names of blocks with commas, or a share of the parameters that it may have at most.
    samples : draws of (image, time step, noise, prompt) whose boundary tensor is stored; no more than the steps see are made.
    boundary : "fp32", or "int8" with a scale for each sample.
    train : adapters of all "kept" layers, or of those "behind" the part alone, which leave the boundary tensor as it was stored.
    """

    usual: ClassVar[Mapping[str, Any]] = {"batch": 4, "lr": 3e-3, "modules": "all"}

    hollow: str = "mid_block"
    samples: int = 512
    boundary: str = "fp32"
    train: str = "kept"

    def __post_init__(self) -> None:
        if not self.hollow:
            raise SettingsError("hollow must be names of blocks or a share of the parameters, not ''")
        whole("boundary samples", self.samples, 1)
        if self.boundary not in ("fp32", "int8"):
            raise SettingsError(f"boundary must be fp32 or int8, not {self.boundary!r}")
        if self.train not in ("kept", "behind"):
            raise SettingsError(f"train must be kept or behind, not {self.train!r}")

    def prepared(self, steps: int, batch: int) -> int:
        """Batches of boundary tensors that are stored."""
        return min(-(-self.samples // batch), steps)


@dataclass(frozen=True)
class TuneqdmOptions(Options):
    """TuneQDM.

    Members
    -------
    bits : of the frozen codes, 4 or 8. experts : groups of time steps with scales of their own.
    input_scales : "trained", or "fixed" at 1, which with one expert is PEQA.
    """

    usual: ClassVar[Mapping[str, Any]] = {"batch": 4, "lr": 1e-2, "modules": "all"}
    adapter: ClassVar[bool] = False
    verifiable: ClassVar[bool] = False
    whole: ClassVar[bool] = True

    bits: int = 4
    experts: int = 4
    input_scales: str = "trained"

    def __post_init__(self) -> None:
        if self.bits not in (4, 8):
            raise SettingsError(f"bits must be 4 or 8, not {self.bits!r}")
        whole("experts", self.experts, 1, 1000)
        if self.input_scales not in ("trained", "fixed"):
            raise SettingsError(f"input_scales must be trained or fixed, not {self.input_scales!r}")


@dataclass(frozen=True)
class ZoodipOptions(Options):
    """ZOODiP.

    Members
    -------
    token : the word whose embedding is trained; by default the digit that the captions name.
    perturbations : directions n of a step. mu : the perturbation; by default the smallest of a few whose correlation suffices.
    tau : steps between two subspaces. nu : share of the variance that a subspace leaves out.
    correlation : what finite differences must have with the true derivative before training starts.
    """

    usual: ClassVar[Mapping[str, Any]] = {"batch": 1, "lr": 5e-3, "modules": "all"}
    adapter: ClassVar[bool] = False
    verifiable: ClassVar[bool] = False
    whole: ClassVar[bool] = True

    token: str = ""
    perturbations: int = 2
    mu: float | None = None
    tau: int = 128
    nu: float = 1e-3
    correlation: float = 0.95

    def __post_init__(self) -> None:
        whole("perturbations", self.perturbations, 1)
        if self.mu is not None:
            real("mu", self.mu, positive=True)
        whole("tau", self.tau, 2)
        for name in ("nu", "correlation"):
            real(name, getattr(self, name))
            if not 0.0 <= getattr(self, name) < 1.0:
                raise SettingsError(f"{name} must be at least 0 and less than 1, not {getattr(self, name)!r}")

    def prepared(self, steps: int, batch: int) -> int:
        """Passes that measure the correlation: no more than there are steps, and from 4 to 16."""
        return min(16, max(4, steps))


OPTIONS: Mapping[str, type[Options]] = {
    "lora": LoraOptions,
    "hollowed-net": HollowOptions,
    "tuneqdm": TuneqdmOptions,
    "zoodip": ZoodipOptions,
}
