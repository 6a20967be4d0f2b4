"""Area of the vector unit by itself on the ECP5: synthesized, and packed as `netlist.refine` packs, but neither placed nor routed."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loralith.placement import carry, register_packing
from loralith.places import builds
from loralith.toolchain import python_module

from .board import RESOURCES
from .flow import COARSE, FINAL, FLOWS, NETLIST
from .netlist import PASSES, count, without_zeros
from .process import Progress, run_tool
from .yosys_process import key_of, run_script

__all__ = ["TOP", "VectorArea", "VectorFlow", "by_block"]

TOP = "vector_unit"


@dataclass(frozen=True)
class VectorArea:
    """Resources (`RESOURCES`) of each block without its submodules, of all its instances, the largest first; of all blocks; and of all
    after flip-flops and LUTs are packed into multipliers and adders."""

    blocks: dict[str, dict[str, int]]
    total: dict[str, int]
    packed: dict[str, int]


@dataclass(frozen=True)
class VectorFlow:
    """``timeout``: seconds for one call of a tool. Results are kept in ``folder``."""

    timeout: float = 3600
    folder: Path = field(default_factory=lambda: builds() / "synth" / "vector")
    progress: Progress = lambda line: None

    def area(self, lanes: int) -> VectorArea:
        """Minutes of Yosys. Raises SynthError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        verilog = self.folder / f"{lanes}.v"
        command = python_module("loralith.gen", "lanes", "--unit", "--lanes", str(lanes), "--output", verilog)
        advice = "`pip install 'loralith[sim]'` installs what it needs"
        run_tool("loralith gen", command, verilog.with_suffix(".log"), self.timeout, advice=advice, progress=self.progress)
        source, flow = without_zeros(verilog.read_text(encoding="utf-8")), FLOWS["nextpnr-ecp5"]
        folder = self.folder / f"{lanes}-{key_of(source, flow.script, PASSES)}"
        if not (folder / "done").is_file():
            folder.mkdir(exist_ok=True)
            (folder / "source.v").write_text(source, encoding="utf-8")
            self.progress(f"yosys: the vector unit with {lanes} lanes, some minutes")
            script = flow.script.format(source="source.v", top=TOP, folder=".")
            run_script(folder / "script.ys", script, folder / "yosys.log", self.timeout, progress=self.progress)
            (folder / "done").touch()
        coarse, final, netlist = (json.loads((folder / name).read_text(encoding="utf-8")) for name in (COARSE, FINAL, NETLIST))
        found = count(flow, coarse, final, path=folder / NETLIST, key=folder.name, seconds=0, tool="pyosys")
        return VectorArea(by_block(found.modules), found.total, packed(netlist["modules"][TOP]))


def by_block(modules: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    """Modules that differ in a lane's number alone are one block; names are below the unit's."""
    blocks: dict[str, Counter[str]] = {}
    for name, counts in modules.items():
        block = re.sub(r"\blane\d*\b", "lane", name.partition(".")[2] or name)
        blocks.setdefault(block, Counter()).update(counts)
    ordered = sorted(blocks.items(), key=lambda item: (-item[1]["lut"] - item[1]["ff"], item[0]))
    return {name: {resource: counts[resource] for resource in RESOURCES} for name, counts in ordered}


def packed(module: dict[str, Any]) -> dict[str, int]:
    """Resources of a flat module after packing, which changes it."""
    register_packing.absorb(module)
    carry.absorb(module)
    cells = Counter(cell["type"] for cell in module["cells"].values())
    costs = FLOWS["nextpnr-ecp5"].costs
    return {resource: round(sum(cost * cells[kind] for kind, cost in costs[resource].items())) for resource in RESOURCES}
