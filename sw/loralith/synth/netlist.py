"""Emit and synthesize: a configuration to a netlist of the part's cells, with counts per module."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loralith.placement import carry, fanout, register_packing, source_text
from loralith.toolchain import python_module

from . import scan_harness
from .board import RESOURCES
from .flow import COARSE, FINAL, FLOWS, NETLIST, Flow
from .process import run_tool
from .synth_error import SynthError
from .target import PARTS, Target
from .yosys_process import key_of, run_script, version

__all__ = ["PASSES", "Netlist", "count", "emit", "instances", "plain", "refine", "synthesize", "without_zeros"]

CELLS = "read_verilog -lib -specify +/ecp5/cells_sim.v +/ecp5/cells_bb.v\n"
_REFINE = {"register_packing": register_packing.absorb, "carry": carry.absorb, "fanout": fanout.split}
"""The passes of `refine` in their order, by module; each returns how many cells it removed, merged or added."""
PASSES = source_text(register_packing, carry, fanout)
"""Text of the passes of `refine`: part of the key of a kept netlist."""


@dataclass(frozen=True)
class Netlist:
    """A synthesized part.

    Attributes:
        path: the flat netlist for placement, after `refine` (absent where the flow does not place).
        key: hash of everything that it was made from.
        modules: resources of each module, its submodules not counted, by the designer's hierarchical name; the largest first.
        total: resources of all.
        cells: how many cells of each type.
        latches: inferred latches. soft_memories: memories, by module, that became flip-flops.
        memories: block RAMs of each module that has some.
        seconds: run time of synthesis. tool: name and version.
    """

    path: Path
    key: str
    modules: dict[str, dict[str, int]]
    total: dict[str, int]
    cells: dict[str, int]
    latches: int
    soft_memories: list[str]
    seconds: float
    tool: str
    memories: dict[str, int] = field(default_factory=dict)


def synthesize(target: Target) -> Netlist:
    """The netlist of `target`, from `target.folder` where it was made before.

    Raises SynthError; also for a netlist that does not fit the part, which then stays in the folder with its counts.
    """
    target.folder.mkdir(parents=True, exist_ok=True)
    verilog = emit(target)
    flow = FLOWS[target.board.tool]
    top, clock = PARTS[target.part]
    source = without_zeros(verilog)
    steps = flow.script
    if target.is_system:  # it has cells of the part's own
        steps = CELLS + steps
    elif flow.places:
        source += scan_harness.wrap(verilog, top, clock)
        top = scan_harness.MODULE
    key = key_of(source, steps)
    folder = target.folder / f"{target.label}-{key}"
    done = folder / "netlist.done"
    if not done.is_file():
        folder.mkdir(exist_ok=True)
        (folder / "source.v").write_text(source, encoding="utf-8")
        script = steps.format(source="source.v", top=top, folder=".")
        log = folder / "yosys.log"
        seconds = run_script(folder / "script.ys", script, log, target.timeout, phase=_phase, progress=target.progress)
        done.write_text(json.dumps({"seconds": round(seconds, 1)}), encoding="utf-8")
    else:
        target.progress(f"yosys: {target.label} is in {folder}")
    path = folder / NETLIST
    if flow.places:
        key = key_of(key, PASSES, *sorted(target.without))
        path = path.with_stem(f"{path.stem}-{key[:8]}")
        if not path.is_file():
            target.progress(f"netlist: {refine(folder / NETLIST, path, top, target.without)}")
    result = count(
        flow,
        json.loads((folder / COARSE).read_text()),
        json.loads((folder / FINAL).read_text()),
        path=path,
        key=key,
        seconds=json.loads(done.read_text())["seconds"],
        tool=f"pyosys {version()}",
    )
    for name in RESOURCES:
        if result.total[name] > target.board.available[name]:
            figures = ", ".join(f"{result.total[r]} of {target.board.available[r]} {r}" for r in RESOURCES)
            raise SynthError(
                f"{target.label} does not fit {target.board.part}: {figures}; a smaller array or smaller buffers fit"
                f" (per module: {folder / FINAL})"
            )
    return result


def refine(source: Path, output: Path, top: str, without: Collection[str] = ()) -> str:
    """Register packing, carry merging and fan-out limiting (docs/placement.md) of a flat ECP5 netlist; returns a line of counts.

    Passes of the modules ``without`` are left out. ``output`` may be ``source``; it is written as a whole or not at all.
    """
    content = json.loads(source.read_text(encoding="utf-8"))
    module = content["modules"][top]
    packed, merged, duplicates = (0 if name in without else run(module) for name, run in _REFINE.items())
    partial = output.with_suffix(".partial")
    partial.write_text(json.dumps(content), encoding="utf-8")
    partial.replace(output)
    return f"{packed} flip-flops packed into blocks, {merged} cells merged into adders, {duplicates} duplicates of drivers of high fan-out"


def count(flow: Flow, coarse: dict[str, Any], final: dict[str, Any], **rest: Any) -> Netlist:
    """A Netlist from Yosys's `stat -json` before and after technology mapping."""
    modules: dict[str, Counter[str]] = {}
    cells: Counter[str] = Counter()
    for name, types in _by_module(final).items():
        counts = modules.setdefault(plain(name), Counter())
        for resource, costs in flow.costs.items():
            counts[resource] += math.ceil(sum(costs.get(kind, 0) * number for kind, number in types.items()))
        cells.update({kind: number for kind, number in types.items() if "\\" + kind.lstrip("\\") not in final["modules"]})
    latches, soft = 0, []
    for name, types in _by_module(coarse).items():
        latches += sum(number for kind, number in types.items() if "latch" in kind)
        soft += [plain(name)] * types.get("$mem_v2", 0)
    ordered = sorted(modules.items(), key=lambda item: (-item[1]["lut"] - item[1]["ff"], item[0]))
    return Netlist(
        modules={name: {r: counts[r] for r in RESOURCES} for name, counts in ordered},
        total={r: sum(counts[r] for counts in modules.values()) for r in RESOURCES},
        cells=dict(sorted(cells.items())),
        latches=latches,
        soft_memories=soft,
        memories={name: counts["bram"] for name, counts in ordered if counts["bram"]},
        **rest,
    )


def instances(modules: dict[str, Any]) -> dict[str, int]:
    """How often each of the `modules` of Yosys's `stat -json` is there in all; once if it is no other's."""
    above: dict[str, list[tuple[str, int]]] = {name: [] for name in modules}
    named = {name.lstrip("\\"): name for name in modules}  # a module's name has a backslash in front, its instances' type has none
    for name, module in modules.items():
        for kind, number in module["num_cells_by_type"].items():
            if found := named.get(kind.lstrip("\\")):
                above[found].append((name, number))
    times: dict[str, int] = {}

    def of(name: str) -> int:
        if name not in times:
            times[name] = sum(number * of(parent) for parent, number in above[name]) if above[name] else 1
        return times[name]

    return {name: of(name) for name in modules}


def _by_module(stat: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Cells by type of all instances of each module together."""
    times = instances(stat["modules"])
    return {
        name: {kind: number * times[name] for kind, number in module["num_cells_by_type"].items()}
        for name, module in stat["modules"].items()
    }


def plain(module: str) -> str:
    """The designer's name of a module, without the numbers of its instances and of Amaranth's and Yosys's twins."""
    return re.sub(r"\d*(\$\d+)?$", "", module.lstrip("\\"))


def without_zeros(verilog: str) -> str:
    """Memories start as zero, which ECP5's do by themselves; one assignment per word costs Yosys minutes."""
    return re.sub(r"^ +(for \(.*\) )?\\?\S+ ?\[\w+\] = \d+'h0+;\n", "", verilog, flags=re.MULTILINE)


def emit(target: Target) -> str:
    """The configuration's Verilog, from a process of its own: this one need not have Amaranth."""
    folder = target.folder / "verilog"
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps(target.config.as_dict(), sort_keys=True)
    name = f"{target.config.name}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"
    what = ["verilog"]
    if target.is_system:
        name += f"-{target.part}-{target.frequency_mhz:g}"
        what = ["board", "--fpga", "--mhz", f"{target.frequency_mhz:g}", *(["--shell"] if target.part == "soc-shell" else [])]
    described, output = folder / f"{name}.config.json", folder / f"{name}.v"
    described.write_text(content, encoding="utf-8")
    run_tool(
        "loralith gen",
        python_module("loralith.gen", *what, "--config", described, "--output", output),
        folder / f"{name}.log",
        target.timeout,
        advice="`pip install 'loralith[sim]'` installs what it needs",
        progress=target.progress,
    )
    return output.read_text(encoding="utf-8")


def _phase(line: str) -> str | None:
    """Headings of the passes of the first two levels."""
    match = re.match(r"(\d+\.(?:\d+\.)?) Executing (.+?)\.?$", line)
    return f"{match[1]} {match[2]}" if match and match[1].count(".") == 1 else None
