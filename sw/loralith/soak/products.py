"""Random products, list after list, on a device; how far it came is kept in a file, from which a later call goes on."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from loralith.device.device import Device
from loralith.device.reference import ReferenceDevice
from loralith.files import write_json
from loralith.soak import SoakError
from loralith.soak.random_products import BATCH, Mismatch, Soak
from loralith.state_file import read_state

__all__ = ["ProductSoak", "stall_bus"]

PROGRESS_SECONDS = 20.0
"""Seconds between two lines of progress, and between two times that the state is kept."""
FIGURES = ("products", "lists", "mismatches", "cycles", "seconds", "cpu_seconds")


class ProductSoak:
    """Random products of ``settings`` (config, device and stall, the most probable stall per bus channel and cycle).

    Each list is drawn from the seed and its number alone, so that a soak in several calls runs the products of one in a single call.

    Attributes: ``result``, the figures so far as JSON values; ``state``, the file that keeps them. Raises SoakError for a file that is no
    such state, or one of other settings.
    """

    def __init__(self, settings: dict[str, Any], seed: int | None, state: Path | None) -> None:
        self.state, self.result = state, _stored(state, settings, seed)

    def run(self, device: Device, products: int, say: Callable[[str], None]) -> Mismatch | None:
        """Until so many products ran in all, in whole lists; the first wrong one. Raises what `Device.run` raises."""
        result, started, cpu, shown = self.result, time.monotonic(), time.process_time(), time.monotonic()
        before, cycles = dict(result), device.counters().cycles
        result["cycle_unit"] = device.cycle_unit or ReferenceDevice.cycle_unit  # a soak runs lists, on any device
        mismatch = None
        while result["products"] < products and mismatch is None:
            soak = Soak(device, 0)
            soak.rng = np.random.default_rng([result["seed"], result["lists"]])
            if result["stall"] is not None:
                stall_bus(device, soak.rng, result["stall"])
            mismatch = soak.batch(BATCH)
            result["products"] += soak.done
            result["lists"] += 1
            result["cycles"] = before["cycles"] + device.counters().cycles - cycles
            result["seconds"] = round(before["seconds"] + time.monotonic() - started, 1)
            result["cpu_seconds"] = round(before["cpu_seconds"] + time.process_time() - cpu, 1)
            if time.monotonic() - shown >= PROGRESS_SECONDS:
                shown = time.monotonic()
                say(f"{result['products']} of {products} products, {result['seconds']:.0f} s")
                self._save()
        if mismatch is not None:
            result["mismatches"], result["first_mismatch"] = 1, asdict(mismatch)
        else:
            self._save()
        return mismatch

    def _save(self) -> None:
        if self.state is not None:
            write_json(self.result, self.state)


def stall_bus(device: Any, rng: np.random.Generator, most: float) -> None:
    """Other stalls and latencies of a simulated bus for the next list; ``most`` is the most probable stall per channel and cycle."""
    from loralith.device.native.library import CHANNELS
    from loralith.device.native.memory_model import MemoryTiming

    stall = {channel: float(rng.choice([0.0, rng.uniform(0, most)])) for channel in CHANNELS}
    latency = int(rng.choice([1, 10, 100]))
    device.configure(
        timing=MemoryTiming(latency, latency // 2, stall=stall, stall_length=int(rng.integers(1, 16)), seed=int(rng.integers(1 << 32)))
    )


def _stored(path: Path | None, settings: dict[str, Any], seed: int | None) -> dict[str, Any]:
    """What the state file holds, or figures of nothing."""
    needs = {"seed": int, **dict.fromkeys(FIGURES, (int, float))}
    found = read_state(path, "a soak of products", {"seed": seed, **settings}, needs, SoakError)
    if found is not None:
        return found
    seed = secrets.randbits(32) if seed is None else seed
    return {"seed": seed, **settings, **dict.fromkeys(FIGURES, 0), "cycle_unit": "", "first_mismatch": None}
