"""The timing diagrams: each block runs in Amaranth's simulator, and the picture shows what its ports did."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from amaranth.hdl import unsigned
from amaranth.sim import Simulator

from loralith.rtl.array import AccumulateMode
from loralith.rtl.queue import SkidBuffer
from loralith.rtl.sequencer import Sequencer
from loralith.spec.config import PRESETS

from .timing_diagram import Wave, Waves

__all__ = ["WAVEFORMS", "folded_tile", "skid_buffer"]


def skid_buffer() -> Waves:
    """Words A, B, ... come whenever they may, and the reader stalls for three cycles."""
    dut: Any = SkidBuffer(unsigned(8))
    ready, cycles, names = (1, 1, 1, 0, 0, 0, 1, 1, 1, 1), 10, "ABCDEF"
    seen: list[tuple[int, ...]] = []

    async def bench(ctx: Any) -> None:
        sent = 0
        for cycle in range(cycles):
            ctx.set(dut.i.valid, cycle >= 1 and sent < len(names))
            ctx.set(dut.i.payload, min(sent, len(names) - 1))
            ctx.set(dut.o.ready, ready[cycle])
            seen.append(tuple(ctx.get(port) for stream in (dut.i, dut.o) for port in (stream.valid, stream.ready, stream.payload)))
            sent += ctx.get(dut.i.valid & dut.i.ready)
            await ctx.tick()

    _run(dut, bench)
    waves = []
    for at, stream in ((0, "i"), (3, "o")):
        valid, accepts, payload = zip(*(row[at : at + 3] for row in seen), strict=True)
        waves += [Wave(f"{stream}.valid", valid), Wave(f"{stream}.ready", accepts)]
        shown = [names[word] if one else None for one, word in zip(valid, payload, strict=True)]
        waves.append(Wave(f"{stream}.payload", shown, bus=True))
    notes = (
        "A word is transferred in each cycle in which valid and ready are both high.",
        "i.ready falls a cycle after o.ready: the spare register takes the word that is under way. No word is lost, and none comes twice.",
    )
    return Waves("A skid buffer whose reader stalls", waves, notes)


def folded_tile() -> Waves:
    """The sequencer's steps of the same tile, of 5 products an element and 2 columns: with fold 1, and then with fold 2."""
    config = PRESETS["tiny"]
    dut: Any = Sequencer(config)
    depth = 5
    plans: list[dict[str, Any]] = [
        {"fold_log2": fold, "m_rows": config.rows, "n_cols": 2, "k0": depth, "steps0": -(-depth >> fold)} for fold in (0, 1)
    ]
    seen: list[tuple[int, ...]] = []

    async def bench(ctx: Any) -> None:
        queue = list(plans)
        ports = (dut.valid, dut.step.left_position, dut.step.right_position, dut.step.depth, dut.step.accumulate_mode, dut.step.last)
        for _ in range(40):
            if queue:
                ctx.set(dut.plans.payload, queue[0])
            ctx.set(dut.plans.valid, bool(queue))
            ctx.set(dut.read_signal.ready, 1)
            taken = ctx.get(dut.plans.valid & dut.plans.ready)
            seen.append(tuple(ctx.get(port) for port in ports))
            await ctx.tick()
            queue = queue[taken:]

    _run(dut, bench)
    steps = [i for i, row in enumerate(seen) if row[0]]
    shown = seen[steps[0] - 1 : steps[-1] + 2]
    valid, left, right, depths, modes, last = (list(column) for column in zip(*shown, strict=True))

    def where(values: list[str]) -> list[str | None]:
        return [value if one else None for one, value in zip(valid, values, strict=True)]

    waves = [
        Wave("valid", valid),
        Wave("left_position", where([str(value) for value in left]), bus=True),
        Wave("right_position", where([str(value) for value in right]), bus=True),
        Wave("depth", where([str(value) for value in depths]), bus=True),
        Wave("accumulate mode", where([AccumulateMode(value).name for value in modes]), bus=True),
        Wave("last", [a & b for a, b in zip(valid, last, strict=True)]),
    ]
    notes = (
        "The same tile of 2 columns and 5 products an element, with fold 1 and then with fold 2. A step of fold 2 reads two k at",
        "once, one for each group of columns, so that 3 steps do; the last one has but one k left (depth). CLEAR starts the sums.",
        "A tile may not end sooner than the drain can take it (`TileSpacing`): the last step waits.",
    )
    return Waves("The steps of a tile, not folded and folded", waves, notes, column=54)


WAVEFORMS: dict[str, Callable[[], Waves]] = {"skid-buffer": skid_buffer, "folded-tile": folded_tile}
"""The timing diagrams by the names of their files."""


def _run(dut: Any, bench: Callable[[Any], Any]) -> None:
    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
