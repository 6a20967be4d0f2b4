"""Places one seed and predicts the clock without routing: minutes, where routing takes longer."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from loralith.placement import fanout, legality, macros, relocate, slices, source_text, timing, whitespace
from loralith.placement.timing import LatePaths

from .netlist import Netlist
from .nextpnr import PLACER, ROUTER, Run, nextpnr, part_words, read_delays, run_step, top_module
from .synth_error import SynthError
from .target import Target

__all__ = ["Placement", "place", "placed", "wire_length"]

_BEFORE, _AFTER = source_text(fanout, macros, whitespace), source_text(relocate, slices, timing)
"""Texts of the passes before and after placement: part of the key of a kept placement."""


@dataclass(frozen=True)
class Placement:
    """Predicted timing of a placed netlist, by estimated routed delays, see `relocate.estimate_routed`.

    Attributes:
        expected_mhz: predicted clock, by the critical path between two clocked pins.
        before_mhz: the same before relocation. moved: number of units that relocation moved.
        end_points, late_points: clocked inputs; those with negative slack at the target period.
        late: late paths by modules, the most end points first.
        wire_tiles: half-perimeter wire length of all nets, in tiles.
        seconds: run time of nextpnr. tool: name and version.
    """

    seed: int
    expected_mhz: float
    before_mhz: float
    moved: int
    end_points: int
    late_points: int
    late: list[LatePaths]
    wire_tiles: int
    seconds: float
    tool: str


def place(target: Target, netlist: Netlist, seed: int) -> Placement:
    """The placement of `netlist` with `seed`, from the netlist's folder where it was made before. Raises SynthError and PlacementError."""
    run = placed(target, netlist, seed)
    content = json.loads(run.stem.with_suffix(".late.json").read_text(encoding="utf-8"))
    content["late"] = [LatePaths(**late) for late in content["late"]]
    return Placement(seed=seed, seconds=run.seconds, tool=run.tool, **content)


def placed(target: Target, netlist: Netlist, seed: int) -> Run:
    """Places `netlist` with `seed`: the run's files are the stem's .placed, .sdf and .late.json, kept in the netlist's folder.

    nextpnr places `target.placements` times. Before each but the first, macros are assigned to sites (`macros.py`) and sinks to duplicated
    drivers (`fanout.py`) by the placement before. Relocation follows the last one (`relocate.py`). Raises SynthError and PlacementError.
    """
    board, (command, tool) = target.board, nextpnr()
    assert board.grid is not None, "boards of tools that place have one"
    content = json.loads(netlist.path.read_text(encoding="utf-8"))
    module = top_module(content)
    if "whitespace" not in target.without:
        whitespace.reserve(module, board.grid)
    words = ["--freq", f"{target.frequency_mhz:g}", "--seed", str(seed), *PLACER, *ROUTER, "--no-route"]
    pins = target.pins.read_text(encoding="utf-8")
    text = [netlist.key, *part_words(target), *words, str(board.grid), str(target.placements), _BEFORE, pins, tool, *sorted(target.without)]
    key = hashlib.sha256("\n".join(text).encode()).hexdigest()[:8]
    stem = netlist.path.parent / f"{board.name}-seed{seed}-{key}"

    def prepare(before: Path | None) -> None:
        if before:
            previous = top_module(json.loads(before.read_text(encoding="utf-8")))
            if "macros" not in target.without:
                macros.lock(module, macros.assign(previous))
            target.progress(f"fanout: {fanout.regroup(module, previous)} sinks to a nearer duplicate of their driver")
        stem.with_suffix(".lpf").write_text(pins, encoding="utf-8")
        stem.with_suffix(".json").write_text(json.dumps(content), encoding="utf-8")

    words = [*part_words(target), *words]
    files = {"--json": ".json", "--lpf": ".lpf"}
    run, before, seconds = Run(stem, 0, tool), None, 0.0
    for sketch in [f"sketch{number}" for number in range(1, target.placements)]:
        written = {**files, "--write": f".{sketch}"}
        run = run_step(target, command, run, sketch, words, written, partial(prepare, before))
        before, seconds = stem.with_suffix(f".{sketch}"), seconds + run.seconds
    written = {**files, "--sdf": ".sdf", "--write": ".first"}
    run = run_step(target, command, run, "placed", words, written, partial(prepare, before))
    return _relocated(target, replace(run, seconds=seconds + run.seconds))


def _relocated(target: Target, first: Run) -> Run:
    """Relocates cells of a .first placement: writes .placed, and .late.json with the timing then; .sdf is a copy of the one before."""
    grid = target.board.grid
    assert grid is not None, "boards of tools that place have one"
    text = f"{_AFTER}{grid}{target.frequency_mhz}"
    run = replace(first, stem=first.stem.with_name(f"{first.stem.name}-{hashlib.sha256(text.encode()).hexdigest()[:4]}"))
    late = run.stem.with_suffix(".late.json")
    if late.is_file():
        return run
    target.progress("relocate: cells of late paths")
    period_ns = 1000 / target.frequency_mhz
    content = json.loads(first.stem.with_suffix(".first").read_text(encoding="utf-8"))
    shutil.copyfile(first.stem.with_suffix(".sdf"), run.stem.with_suffix(".sdf"))
    delays = read_delays(run.stem.with_suffix(".sdf"))
    paths = timing.Timing(delays)
    before = delays.ns.copy()
    relocate.estimate_routed(delays)
    before_mhz = paths.report(period_ns)["expected_mhz"]
    delays.ns[:] = before
    module = top_module(content)
    done = relocate.relocate(module, delays, grid, period_ns, target.progress)
    if problems := legality.problems(module):
        raise SynthError(
            f"relocation made an illegal placement: {problems[0]} ({len(problems)} in all); this is a mistake in placement/slices.py"
        )
    found = paths.report(period_ns)
    target.progress(f"relocate: {done.moved} units moved, {before_mhz} MHz predicted before, {found['expected_mhz']} after")
    run.stem.with_suffix(".placed").write_text(json.dumps(content), encoding="utf-8")
    tiles = wire_length(first.stem.with_suffix(".placed.log").read_text(encoding="utf-8", errors="replace"))
    kept = found | {"late": [asdict(group) for group in found["late"]], "before_mhz": before_mhz, "moved": done.moved, "wire_tiles": tiles}
    late.write_text(json.dumps(kept), encoding="utf-8")
    return run


def wire_length(log: str) -> int:
    """The last wire length in a log of nextpnr's placer. Raises SynthError where there is none."""
    found = re.findall(r"wirelen = (\d+)", log)
    if not found:
        raise SynthError("nextpnr's log has no wire length; `pip install 'loralith[fpga]'` installs the version that is known to print it")
    return int(found[-1])
