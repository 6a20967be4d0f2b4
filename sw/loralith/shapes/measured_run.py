"""Runs of LoRA linears on a device with cycle counters: measured cycles, checked results, and the cycle model beside them.

A linear that a model has several times follows itself in a step, or others like it. Its cost is taken from two lists, one with the linear
once and one with it twice: in the first one nothing hides load, store and overhead, the second one less the first is what one more adds.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loralith.compiler.cycles import Memory, model
from loralith.compiler.lists.command_list import CommandList
from loralith.compiler.lists.relocatable import Relocatable
from loralith.compiler.schedules.shared_text import compile_text, place_text
from loralith.compiler.schedules.training_step import PAGE, Linear, Tensors, compile_step, place, step_macs
from loralith.device.device import Device
from loralith.shapes.linear_operands import check_results, fill, random_matrix, write_matrix
from loralith.shapes.peers import Gemm, products
from loralith.spec.config import Config

__all__ = [
    "Measurement",
    "TextMeasurement",
    "fixed_os_cycles",
    "measure",
    "measure_text",
    "modelled",
    "modelled_text",
    "run_once",
    "total",
    "weight_stationary_cycles",
]

TIMEOUT = 7200.0


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

    @property
    def counted(self) -> dict[Linear, int]:
        return {self.linear: self.count}

    def rows(self) -> list[dict[str, Any]]:
        """One row of figures."""
        figures = {name: self.sum(name) for name in FIGURES}
        cycles = {"cycles_once": self.once["cycles"], "cycles_each_more": self.more["cycles"]}
        return [_named(self.linear, self.count) | figures | cycles | {"measured": self.measured, "model_error": self.model_error}]


@dataclass(frozen=True)
class TextMeasurement:
    """Counters of one list with all the linears that read a text."""

    linears: tuple[Linear, ...]
    counters: dict[str, int]
    modelled: int
    measured: bool

    @property
    def cycles(self) -> int:
        return self.counters["cycles"]

    @property
    def macs(self) -> int:
        return self.counters["macs"]

    @property
    def counted(self) -> dict[Linear, int]:
        return dict(Counter(self.linears))

    def rows(self) -> list[dict[str, Any]]:
        """A row per shape: of the list's figures the share that its multiply-accumulates have."""
        error = self.modelled / self.cycles - 1
        rows = []
        for linear, count in self.counted.items():
            macs = linear.macs * count
            figures = {name: round(self.counters[name] * macs / self.macs) for name in FIGURES} | {"macs": macs}
            shared = {"one_list_of": len(self.linears), "measured": self.measured, "model_error": error}
            rows.append(_named(linear, count) | figures | shared)
        return rows


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
        work, nbytes = _placed(linear, copies, 0, config)
        commands = compile_step(work, config)
        cycles.append(model(commands, config).cycles)
        path = _kept(cache, commands, hardware, config)
        if path and path.is_file():
            runs.append(json.loads(path.read_text(encoding="utf-8")))
            continue
        with device.arena():
            base = device.alloc(nbytes, PAGE)
            work, _ = _placed(linear, copies, base, config)
            progress(f"{linear.name}, rank {linear.rank}, x{copies}: {len(commands):,} commands, about {cycles[-1]:,} cycles")
            expected = [fill(device, one, tensors, seed) for seed, (one, tensors) in enumerate(work)]
            runs.append(_run(device, commands, base))
            for (one, tensors), results in zip(work, expected, strict=True):
                check_results(device, one, tensors, results)
            _keep(path, runs[-1])
    return _difference(linear, count, runs, (cycles[0], cycles[1] - cycles[0]), measured=True)


def _kept(cache: Path | None, commands: CommandList, hardware: str, config: Config) -> Path | None:
    """Where a run of the list is kept: `commands` as compiled for address 0, as where a run's operands lie depends on the runs before."""
    about = json.dumps([hardware, config.as_dict()], sort_keys=True).encode()
    return cache / f"{hashlib.sha256(commands.pack() + about).hexdigest()[:24]}.json" if cache else None


def _keep(path: Path | None, counters: dict[str, int]) -> None:
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(counters), encoding="utf-8")
        fresh.rename(path)


def _run(device: Device, commands: CommandList, base: int) -> dict[str, int]:
    """The counters of a list that was compiled for address 0, with its operands from `base` on."""
    before = device.counters()
    device.run(Relocatable.of(commands).at(base), TIMEOUT)
    counters = device.counters().minus(before)._asdict()
    return {name: counters[name] for name in FIGURES}


def modelled_text(linears: Sequence[Linear], config: Config, memory: Memory | None = None) -> TextMeasurement:
    """The cycle model's figures of `measure_text`. Raises DoesNotFit."""
    text, tensors, _ = place_text(linears, 0, config)
    timeline = model(compile_text(text, list(zip(linears, tensors, strict=True)), config), config, memory)
    counters = dict.fromkeys(FIGURES, 0) | {
        "cycles": timeline.cycles,
        "busy": timeline.busy,
        "bytes_read": timeline.read_words * config.bus_bytes,
        "bytes_written": timeline.write_words * config.bus_bytes,
        "macs": step_macs(linears),
    }
    return TextMeasurement(tuple(linears), counters, timeline.cycles, measured=False)


def measure_text(
    linears: Sequence[Linear],
    device: Device,
    hardware: str = "",
    cache: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> TextMeasurement:
    """Run linears that read one text on the device, as one list, and check every result; see `measure`. Raises DoesNotFit."""
    config = device.config
    text, tensors, nbytes = place_text(linears, 0, config)
    commands = compile_text(text, list(zip(linears, tensors, strict=True)), config)
    cycles = model(commands, config).cycles
    path = _kept(cache, commands, hardware, config)
    if path and path.is_file():
        return TextMeasurement(tuple(linears), json.loads(path.read_text(encoding="utf-8")), cycles, measured=True)
    with device.arena():
        base = device.alloc(nbytes, PAGE)
        text, tensors, _ = place_text(linears, base, config)
        progress(f"{len(linears)} linears of the text, rank {linears[0].rank}: {len(commands):,} commands, about {cycles:,} cycles")
        first = linears[0]
        x = random_matrix(np.random.default_rng([first.T, first.I]), first.T, first.I)
        write_matrix(device, text.x, x)
        if text.columns.rest:
            write_matrix(device, text.rest, text.rest_image(x, config))
        expected = [fill(device, one, t, seed, x) for seed, (one, t) in enumerate(zip(linears, tensors, strict=True))]
        counters = _run(device, commands, base)
        for one, t, results in zip(linears, tensors, expected, strict=True):
            found = {"h_transposed": results.pop("h").T, "db": results.pop("db").T}
            check_results(device, one, t, results | found)
        _keep(path, counters)
    return TextMeasurement(tuple(linears), counters, cycles, measured=True)


def run_once(
    linear: Linear,
    seed: int,
    device: Device,
    hardware: str = "",
    cache: Path | None = None,
) -> tuple[dict[str, int], int]:
    """One linear's step on the device, alone in a list, every result checked: its counters, and the model's cycles.

    With `cache` a run of the same list, hardware and `seed`, which the operands follow from, is not repeated.
    """
    config = device.config
    work, nbytes = _placed(linear, 1, 0, config)
    commands = compile_step(work, config)
    cycles = model(commands, config).cycles
    path = _kept(cache, commands, f"{hardware} {linear.name} {seed}", config)
    if path and path.is_file():
        return json.loads(path.read_text(encoding="utf-8")), cycles
    with device.arena():
        base = device.alloc(nbytes, PAGE)
        ((_, tensors),), _ = _placed(linear, 1, base, config)
        expected = fill(device, linear, tensors, seed)
        counters = _run(device, commands, base)
        check_results(device, linear, tensors, expected)
        _keep(path, counters)
    return counters, cycles


def _difference(linear: Linear, count: int, runs: list[dict[str, int]], cycles: tuple[int, int], *, measured: bool) -> Measurement:
    more = {name: runs[1][name] - runs[0][name] for name in FIGURES}
    return Measurement(linear, count, runs[0], more, cycles, measured)


def _placed(linear: Linear, copies: int, base: int, config: Config) -> tuple[list[tuple[Linear, Tensors]], int]:
    work = []
    for _ in range(copies):
        tensors, base = place(linear, base, config)
        work.append((linear, tensors))
    return work, base


def fixed_os_cycles(linear: Linear, config: Config) -> int:
    """Output stationary, fold 1, no swap, no chain, no fusion, its drain hidden behind the next tile, no fill and no bus: an ideal."""
    return sum(-(-M // config.rows) * -(-N // config.cols) * max(K, config.cols) for M, N, K in map(_sizes, products(linear)))


def _sizes(product: Gemm) -> tuple[int, int, int]:
    return product.M, product.N, product.K


def weight_stationary_cycles(linear: Linear, config: Config) -> int:
    """Weight stationary in closed form: a tile of K x N stays while M rows pass, its own loading (R cycles) hidden behind the tile before.

    Of each product and its transpose the cheaper one is taken: which operand stays is a free choice.
    """
    return sum(
        min(
            -(-K // config.rows) * -(-N // config.cols) * max(M, config.rows),
            -(-K // config.rows) * -(-M // config.cols) * max(N, config.rows),
        )
        for M, N, K in map(_sizes, products(linear))
    )


def total(measurements: Iterable[Measurement | TextMeasurement], config: Config) -> dict[str, Any]:
    """Sums over a step, with the share of cycles that a device measured."""
    measurements = list(measurements)
    cycles, macs = sum(m.cycles for m in measurements), sum(m.macs for m in measurements)
    elements = config.rows * config.cols
    fixed = sum(fixed_os_cycles(linear, config) * count for m in measurements for linear, count in m.counted.items())
    stationary = sum(weight_stationary_cycles(linear, config) * count for m in measurements for linear, count in m.counted.items())
    assert macs == sum(linear.macs * count for m in measurements for linear, count in m.counted.items())
    return {
        "macs": macs,
        "cycles": cycles,
        "utilization": macs / (cycles * elements),
        "measured_cycles_share": sum(m.cycles for m in measurements if m.measured) / cycles,
        "fixed_os_cycles": fixed,
        "fixed_os_utilization": macs / (fixed * elements),
        "speedup_over_fixed_os": fixed / cycles,
        "weight_stationary_cycles": stationary,
        "weight_stationary_utilization": macs / (stationary * elements),
        "layers": [row | _ratios(row, config) for m in measurements for row in m.rows()],
    }


SHARES = ("busy", "wait_load", "wait_store", "fill_drain", "idle")


def _ratios(row: dict[str, Any], config: Config) -> dict[str, Any]:
    linear = Linear(row["name"], row["tokens"], row["inputs"], row["outputs"], row["rank"], row["dx"])
    elements = config.rows * config.cols
    return {
        "utilization": row["macs"] / (row["cycles"] * elements),
        "fixed_os_utilization": linear.macs / (fixed_os_cycles(linear, config) * elements),
        "weight_stationary_utilization": linear.macs / (weight_stationary_cycles(linear, config) * elements),
    } | {name: row[name] / row["cycles"] for name in SHARES}


def _named(linear: Linear, count: int) -> dict[str, Any]:
    return {
        "name": linear.name,
        "count": count,
        "tokens": linear.T,
        "inputs": linear.I,
        "outputs": linear.O,
        "rank": linear.rank,
        "dx": linear.dx,
    }
