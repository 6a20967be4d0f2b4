"""The RTL as a device that counts which lines run and which bits toggle. Its model is built in a cache entry of its own."""

from __future__ import annotations

import ctypes
import os
import re
import tempfile
from collections import Counter
from pathlib import Path

from loralith.device.native.build import (
    CXX_FLAGS,
    LIBRARY,
    MODULE,
    SOURCES,
    VERILATOR_FLAGS,
    BuildError,
    cached,
    digest,
    processor,
    runtime,
    verilog,
)
from loralith.device.native.compile import Levels, compile_design
from loralith.device.verilator import VerilatorDevice
from loralith.progress import tell
from loralith.soak.coverage.points import Point, merge, read_points
from loralith.spec.config import Config
from loralith.toolchain import find_verilator, without_spaces

__all__ = ["CoveredDevice", "build_covered"]

FLAGS = ("--coverage-line", "--coverage-toggle", "--coverage-underscore")
LEVELS = Levels("-O1", "-O0", "-O1")
"""The counters cost more than an optimizer saves, and their code is large."""
INSERTS = {"__vlCoverInsert": "1", "__vlCoverToggleInsert": "2 * (1 + (end > begin ? end - begin : begin - end))"}
"""Functions of a model that list points, and the counters of each."""
OWN = Path(__file__).resolve().with_name("coverage.cpp")


def build_covered(config: Config) -> Path:
    """The library of the model that counts. Raises BuildError and ToolchainError, see `loralith.device.native.build`."""
    verilator, source = find_verilator(), verilog(config)
    native = sorted((*SOURCES.glob("*.cpp"), *SOURCES.glob("*.h"), *SOURCES.glob("*.vlt"), OWN))
    text = (str(verilator.version), *VERILATOR_FLAGS, *FLAGS, str(LEVELS), CXX_FLAGS, str(INSERTS), processor(), os.environ.get("CXX", ""))

    def make(folder: Path) -> None:
        tell(f"compiling the model of configuration {config.name} that counts, once: a minute (tiny) or more")
        sources, output = without_spaces(SOURCES), without_spaces(folder.parent) / folder.name
        verilator.run(
            *("--cc", *VERILATOR_FLAGS, *FLAGS, "--top-module", MODULE, "-Mdir", output / "obj"),
            *("--compiler-include", sources / "sign_extension.h", sources / "modules.vlt", without_spaces(source.parent) / source.name),
        )
        _list_points_once(output / "obj")
        own, flags = [without_spaces(OWN.parent) / OWN.name], f"{CXX_FLAGS} -I{sources}"
        compile_design(verilator, output / "obj", own, output / LIBRARY, runtime=runtime(), flags=flags, levels=LEVELS, shared=True)

    return cached(f"coverage-{digest(source, *native, text=text)}", make) / LIBRARY


def _list_points_once(folder: Path) -> None:
    """Has a design's constructors list its points where `coverage.cpp` says so, and else set their counters to zero.

    Raises BuildError where Verilator writes them in another way.
    """
    changed = 0
    for file in sorted(folder.glob("*.cpp")):
        text = file.read_text(encoding="utf-8")
        for name, count in INSERTS.items():
            only = (
                "extern bool loralith_lists_points; if (!loralith_lists_points) { "
                f"for (int counter = 0; counter < {count}; ++counter) countp[counter] = 0; return; }}"
            )
            text, found = re.subn(rf"void \w+::{name}\([^)]*\) {{", rf"\g<0> {only}", text)
            changed += found
        file.write_text(text, encoding="utf-8")
    if not changed:
        raise BuildError("Verilator's model has no function that lists the points of its coverage")


class CoveredDevice(VerilatorDevice):
    """Attributes: ``points``, the counts of all its machines so far, as of the last `collect`."""

    def __init__(self, config: Config, *, memory_base: int = 1 << 32, memory_bytes: int = 1 << 24, max_cycles: int | None = None) -> None:
        self.points: Counter[Point] = Counter()
        library = build_covered(config)
        super().__init__(config, memory_base=memory_base, memory_bytes=memory_bytes, max_cycles=max_cycles, library=library)

    def collect(self) -> None:
        """Takes over what all machines have counted since the last time."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "coverage.dat"
            self._call("write", ctypes.c_char_p(os.fsencode(file)))
            merge(self.points, read_points(file.read_text(encoding="utf-8")))

    def power_cycle(self) -> None:
        self._call("add")
        super().power_cycle()

    def _call(self, name: str, *arguments: ctypes.c_char_p) -> None:
        function = getattr(self._library.dll, f"loralith_coverage_{name}")
        function.restype = None
        function(ctypes.c_void_p(self.model.handle), *arguments)
