"""Runs of LoRA linears on a device with cycle counters: measured cycles, checked results, and the cycle model beside them.

A linear that a model has several times follows itself in a step, or others like it. Its cost is taken from two lists, one with the linear
once and one with it twice: the first one has everything in the open, the second one less the first is what one more adds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loralith.compiler.cycles import Memory, model
from loralith.compiler.layout import MatrixLayout
from loralith.compiler.lora import skinny_shape
from loralith.compiler.workload import Linear, Tensors, compile_step, output_scale, place, step_macs
from loralith.device.base import Device
from loralith.errors import LoralithError
from loralith.spec.config import Config
from loralith.spec.numerics import Requantization

__all__ = ["Measurement", "Mismatch", "fixed_os_cycles", "measure", "modelled", "total"]

INPUTS = ("x", "w", "a", "b", "a_chain", "b_chain", "dy")
TIMEOUT = 7200.0


class Mismatch(LoralithError):
    """A result of the device is not what the products' definition gives."""


@dataclass(frozen=True)
class Measurement:
    """Counters of one linear's step: alone in a list (`once`), and what a second one adds (`more`).

    `modelled` has the cycle model's cycles of both. Without a device `once` and `more` hold the model's figures and `measured` is False.
    """

    linear: Linear
    count: int
    once: dict[str, int]
    more: dict[str, int]
    modelled: tuple[int, int]
    measured: bool

    @property
    def cycles(self) -> int:
        """Cycles of all of them, one after the other."""
        return self.once["cycles"] + (self.count - 1) * self.more["cycles"]

    @property
    def macs(self) -> int:
        return self.once["macs"] + (self.count - 1) * self.more["macs"]

    def sum(self, name: str) -> int:
        return self.once[name] + (self.count - 1) * self.more[name]

    @property
    def model_error(self) -> float:
        """The model's cycles of the longer list, relative to the device's, less one."""
        return sum(self.modelled) / (self.once["cycles"] + self.more["cycles"]) - 1


FIGURES = ("cycles", "busy", "wait_load", "wait_store", "fill_drain", "idle", "bytes_read", "bytes_written", "macs")


def modelled(linear: Linear, count: int, config: Config, memory: Memory | None = None) -> Measurement:
    """The cycle model's figures alone."""
    runs = []
    for copies in (1, 2):
        work, _ = _placed(linear, copies, 0, config)
        timeline = model(compile_step(work, config), config, memory)
        counters = dict.fromkeys(FIGURES, 0)
        counters |= {
            "cycles": timeline.cycles,
            "busy": timeline.busy,
            "bytes_read": timeline.read_words * config.bus_bytes,
            "bytes_written": timeline.write_words * config.bus_bytes,
            "macs": copies * linear.macs,
        }
        runs.append(counters)
    return _difference(linear, count, runs, (runs[0]["cycles"], runs[1]["cycles"] - runs[0]["cycles"]), measured=False)


def measure(
    linear: Linear,
    count: int,
    device: Device,
    hardware: str = "",
    cache: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Measurement:
    """Run the linear on the device, once and twice, and check every result. Raises Mismatch for a wrong one.

    With `cache`, a folder, a run whose list and `hardware`, a name that changes with the Verilog, are the same is not repeated.
    """
    config = device.config
    runs, cycles = [], []
    for copies in (1, 2):
        with device.arena():
            base = device.alloc(_placed(linear, copies, 0, config)[1], 4096)
            work, _ = _placed(linear, copies, base, config)
            commands = compile_step(work, config)
            cycles.append(model(commands, config).cycles)
            about = json.dumps([hardware, config.as_dict()], sort_keys=True).encode()
            key = hashlib.sha256(commands.pack() + about).hexdigest()
            path = cache / f"{key[:24]}.json" if cache else None
            if path and path.is_file():
                runs.append(json.loads(path.read_text(encoding="utf-8")))
                continue
            progress(f"{linear.name}, rank {linear.rank}, x{copies}: {len(commands):,} commands, about {cycles[-1]:,} cycles")
            expected = [_fill(device, one, tensors, seed) for seed, (one, tensors) in enumerate(work)]
            before = device.counters()
            device.run(commands, TIMEOUT)
            counters = device.counters().minus(before)._asdict()
            for (one, tensors), results in zip(work, expected, strict=True):
                _check(device, one, tensors, results)
            runs.append({name: counters[name] for name in FIGURES})
            if path:
                path.parent.mkdir(parents=True, exist_ok=True)
                fresh = path.with_suffix(".new")
                fresh.write_text(json.dumps(runs[-1]), encoding="utf-8")
                fresh.rename(path)
    return _difference(linear, count, runs, (cycles[0], cycles[1] - cycles[0]), measured=True)


def _difference(linear: Linear, count: int, runs: list[dict[str, int]], cycles: tuple[int, int], *, measured: bool) -> Measurement:
    more = {name: runs[1][name] - runs[0][name] for name in FIGURES}
    return Measurement(linear, count, runs[0], more, cycles, measured)


def _placed(linear: Linear, copies: int, base: int, config: Config) -> tuple[list[tuple[Linear, Tensors]], int]:
    work = []
    for _ in range(copies):
        tensors, base = place(linear, base, config)
        work.append((linear, tensors))
    return work, base


# Data, and what must come out.


def _fill(device: Device, linear: Linear, tensors: Tensors, seed: int) -> dict[str, np.ndarray]:
    """Writes random INT8 operands with the spread of real ones; returns the expected results by name, from the products' definition."""
    config = device.config
    rng = np.random.default_rng([seed, linear.T, linear.I, linear.O, linear.rank])
    T, I, O, r = linear.T, linear.I, linear.O, linear.rank

    def tensor(rows: int, cols: int) -> np.ndarray:
        return np.clip(np.rint(rng.standard_normal((rows, cols), np.float32) * 40), -127, 127).astype(np.int8)

    x, w, dy = tensor(T, I), tensor(O, I), tensor(T, O)
    a, b, a_chain, b_chain = tensor(r, I), tensor(O, r), tensor(r, I), tensor(O, r)
    skinny = skinny_shape(r, config)
    images = {"x": x, "w": w, "dy": dy, "a_chain": a_chain, "b_chain": np.ascontiguousarray(b_chain.T)}
    for name, thin in (("a", a.T), ("b", b)):
        images[name] = skinny.right_image(np.ascontiguousarray(thin), config)
    for name, values in images.items():
        layout: MatrixLayout = getattr(tensors, name)
        device.write(layout.address, layout.pack(values))
    device.write(tensors.zeros, bytes(64))

    def product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return left.astype(np.float64) @ right.astype(np.float64)  # exact: sums stay far below 2**53

    forward, backward = output_scale(I), output_scale(O)
    h = _requantize(product(x, a.T), forward)
    dh = _requantize(product(dy, b), backward)
    results = {
        "h": h,
        "y": _requantize(product(x, w.T) + product(h, b_chain.T), forward),
        "dh": dh,
        "db": product(dy.T, h).astype(np.int32),
        "da": product(x.T, dh).astype(np.int32),
    }
    if linear.dx:
        results["dx"] = _requantize(product(dy, w) + product(dh, a_chain), backward)
    return results


def _requantize(acc: np.ndarray, scale: Requantization) -> np.ndarray:
    """Round half to even of acc * mantissa / 2**shift, saturated; exact in float64."""
    return np.clip(np.rint(acc * scale.mantissa * 2.0**-scale.shift), -127, 127).astype(np.int8)


def _check(device: Device, linear: Linear, tensors: Tensors, results: dict[str, np.ndarray]) -> None:
    for name, expected in results.items():
        layout: MatrixLayout = getattr(tensors, name)
        found = layout.unpack(device.read(layout.address, layout.nbytes), expected.dtype)[:, : expected.shape[1]]
        wrong = np.argwhere(found != expected)
        if len(wrong):
            at = tuple(int(i) for i in wrong[0])
            raise Mismatch(
                f"{linear.name}, rank {linear.rank}: {name}{list(at)} is {found[at]}, must be {expected[at]}; {len(wrong)} differ"
            )


# Sums and baselines.


def fixed_os_cycles(linear: Linear, config: Config) -> int:
    """Output stationary, fold 1, no swap, no chain, no fusion, its drain hidden behind the next tile, no fill and no bus: an ideal."""
    T, I, O, r = linear.T, linear.I, linear.O, linear.rank
    products = [(T, r, I), (T, O, I), (T, O, r), (T, r, O), (O, r, T), (r, I, T)]
    if linear.dx:
        products += [(T, I, O), (T, I, r)]
    return sum(-(-M // config.rows) * -(-N // config.cols) * max(K, config.cols) for M, N, K in products)


def total(measurements: Iterable[Measurement], config: Config) -> dict[str, Any]:
    """Sums over a step, with the share of cycles that a device measured."""
    measurements = list(measurements)
    cycles, macs = sum(m.cycles for m in measurements), sum(m.macs for m in measurements)
    elements = config.rows * config.cols
    fixed = sum(m.count * fixed_os_cycles(m.linear, config) for m in measurements)
    assert macs == sum(m.count * step_macs([m.linear]) for m in measurements)
    return {
        "macs": macs,
        "cycles": cycles,
        "utilization": macs / (cycles * elements),
        "measured_cycles_share": sum(m.cycles for m in measurements if m.measured) / cycles,
        "fixed_os_cycles": fixed,
        "fixed_os_utilization": macs / (fixed * elements),
        "speedup_over_fixed_os": fixed / cycles,
        "layers": [
            {
                "name": m.linear.name,
                "count": m.count,
                "tokens": m.linear.T,
                "inputs": m.linear.I,
                "outputs": m.linear.O,
                "rank": m.linear.rank,
                "dx": m.linear.dx,
                "macs": m.macs,
                "cycles": m.cycles,
                "cycles_once": m.once["cycles"],
                "cycles_each_more": m.more["cycles"],
                "utilization": m.macs / (m.cycles * elements),
                "fixed_os_utilization": m.linear.macs / (fixed_os_cycles(m.linear, config) * elements),
                "bytes_read": m.sum("bytes_read"),
                "bytes_written": m.sum("bytes_written"),
                "busy": m.sum("busy") / m.cycles,
                "wait_load": m.sum("wait_load") / m.cycles,
                "wait_store": m.sum("wait_store") / m.cycles,
                "fill_drain": m.sum("fill_drain") / m.cycles,
                "idle": m.sum("idle") / m.cycles,
                "measured": m.measured,
                "model_error": m.model_error,
            }
            for m in measurements
        ],
    }
