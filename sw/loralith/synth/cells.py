"""Area in standard cells: maps arrays and the accelerator's blocks to the cells of a liberty file with Yosys.

Nothing is placed or routed and there is no target clock; memories that would be macros are left out.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from loralith.places import builds
from loralith.spec.config import Config
from loralith.toolchain import python_module, without_spaces

from .netlist import instances, plain, without_zeros
from .process import Progress, run_tool
from .synth_error import SynthError
from .yosys_process import key_of, run_script

__all__ = ["BASELINES", "LIBERTY", "Area", "CellFlow", "find_liberty"]

LIBERTY = Path("/usr/share/qflow/tech/osu018/osu018_stdcells.lib")
"""Where Debian's package qflow-tech-osu018 has Oklahoma State University's cells for a 0.18 um process."""

BASELINES = ("fp16", "bf16", "fp32")
INT8 = "loralith.compute.array"
MACROS = (
    *(f"compute.{name}" for name in ("left", "right", "out", "acc", "scale", "statistics")),
    *(f"bus.{name}.words" for name in ("fetch", "load_queue", "compute_queue", "store_queue")),
)
"""Memories, which would be RAM macros on a chip."""

_SCRIPT = """\
read_verilog -sv {source}
hierarchy -check -top {top}
{before}
dfflibmap -liberty {liberty}
abc -liberty {liberty}
opt_clean -purge
tee -q -o {folder}/area.json stat -json -liberty {liberty}
"""


@dataclass(frozen=True)
class Area:
    """One module without its submodules: number of cells, and their area in the liberty file's unit (um^2)."""

    cells: int
    area: float


def find_liberty(path: Path | None) -> Path:
    """``path``, or Debian's. Raises SynthError for a file that is not there or no liberty file."""
    found = path or LIBERTY
    if not found.is_file():
        raise SynthError(f"there is no cell library at {found}; `apt-get install qflow-tech-osu018` installs one, --liberty names another")
    with found.open(encoding="utf-8", errors="replace") as file:
        if not re.search(r"^\s*library\s*\(", file.read(100_000), re.MULTILINE):
            raise SynthError(f"{found} is no liberty file: it has no library(...) group")
    return found


@dataclass(frozen=True)
class CellFlow:
    """Synthesis to the cells of ``liberty``; each step's result is kept in ``folder``. ``timeout``: seconds for one call of a tool."""

    liberty: Path
    timeout: float = 3600
    folder: Path = field(default_factory=lambda: builds() / "synth" / "cells")
    progress: Progress = lambda line: None

    def int8_array(self, rows: int, cols: int) -> Area:
        """The accelerator's own array, by itself."""
        config = Config("cells", rows, cols, bus_bytes=8, max_fold=1, left_bytes=4096, right_bytes=4096, out_bytes=4096, acc_bytes=4096)
        source = self._emitted("int8", "verilog", "--config", self._described(config))
        return self._flat(f"int8-{rows}x{cols}", source, INT8)

    def float_array(self, form: str, rows: int, cols: int) -> Area:
        """The array of `baseline.float_array` in a format of `BASELINES`."""
        source = self._emitted(form, "baseline", "--format", form, "--rows", str(rows), "--cols", str(cols))
        return self._flat(f"{form}-{rows}x{cols}", source, "float_array")

    def blocks(self, config: Config) -> dict[str, Area]:
        """Every block of the accelerator by its hierarchical name, the largest first; memories of `MACROS` apart."""
        source = self._emitted(config.name, "verilog", "--config", self._described(config))
        macros = " ".join(f"loralith.{name} loralith.{name}$*" for name in MACROS)  # instances of several have numbers
        before = f"blackbox {macros}\nsynth -top loralith"
        found = self._mapped(f"{config.name}-blocks", source, "loralith", before)
        memories = {f"loralith.{name}" for name in MACROS}
        return {name: area for name, area in found.items() if name not in memories}

    def _flat(self, label: str, source: str, top: str) -> Area:
        (area,) = self._mapped(label, source, top, f"synth -flatten -top {top}").values()
        return area

    def _described(self, config: Config) -> str:
        self.folder.mkdir(parents=True, exist_ok=True)
        content = json.dumps(config.as_dict(), sort_keys=True)
        path = self.folder / f"{hashlib.sha256(content.encode()).hexdigest()[:8]}.config.json"
        path.write_text(content, encoding="utf-8")
        return str(path)

    def _emitted(self, label: str, *words: str) -> str:
        self.folder.mkdir(parents=True, exist_ok=True)
        output = self.folder / f"{label}.v"
        run_tool(
            "loralith gen",
            python_module("loralith.gen", *words, "--output", output),
            output.with_suffix(".log"),
            self.timeout,
            advice="`pip install 'loralith[sim]'` installs what it needs",
            progress=self.progress,
        )
        return without_zeros(output.read_text(encoding="utf-8"))

    def _mapped(self, label: str, source: str, top: str, before: str) -> dict[str, Area]:
        cells = hashlib.sha256(self.liberty.read_bytes()).hexdigest()
        folder = self.folder / f"{label}-{key_of(source, _SCRIPT, before, cells)}"
        done = folder / "done"
        if not done.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "source.v").write_text(source, encoding="utf-8")
            script = _SCRIPT.format(source="source.v", top=top, before=before, liberty=without_spaces(self.liberty), folder=".")
            self.progress(f"yosys: {label}")
            run_script(folder / "script.ys", script, folder / "yosys.log", self.timeout, progress=self.progress)
            done.touch()
        return areas(json.loads((folder / "area.json").read_text(encoding="utf-8")))


def areas(stat: dict) -> dict[str, Area]:
    """Of Yosys's `stat -json -liberty`: each module's own cells, of all its instances, the largest first.

    Raises SynthError for a cell without area.
    """
    modules, times = stat["modules"], instances(stat["modules"])
    found: dict[str, Area] = {}
    for module, content in modules.items():
        name, kinds = plain(module), content["num_cells_by_type"]
        own = {kind: number for kind, number in kinds.items() if kind not in modules}
        unmapped = [kind for kind in own if kind.startswith("$")]
        if unmapped:
            raise SynthError(f"{name} has cells that the library lacks: {', '.join(unmapped)}; another --liberty may have them")
        below = sum(number * modules[kind].get("area", 0.0) for kind, number in kinds.items() if kind in modules)  # Yosys counts them in
        before = found.get(name, Area(0, 0.0))
        area = float(content.get("area", 0.0) - below)
        found[name] = Area(before.cells + sum(own.values()) * times[module], before.area + area * times[module])
    return dict(sorted(found.items(), key=lambda item: (-item[1].area, item[0])))
