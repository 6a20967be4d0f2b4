"""The accelerator's Verilog, and a description of what it was made from."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from loralith.spec.config import Config, ConfigError
from loralith.spec.sdram import MEMORY_BASE
from loralith.spec.version import VERSION

__all__ = [
    "LINKED",
    "MODULE",
    "convert",
    "convert_baseline",
    "convert_board",
    "convert_linked",
    "convert_sdram",
    "convert_ulx3s",
    "describe",
    "modules_once",
    "text",
]

MODULE = "loralith"
"""Name of the top module. Its ports are named in `loralith.rtl.top`."""

LINKED = "loralith_linked"
"""Name of the top module of accelerator and serial link. Its ports are named in `loralith.soc.linked`."""

PASSES = "proc; opt_expr; opt_clean; opt_dff -simple-dffe; opt_clean; memory_collect"
"""Yosys passes between Amaranth's netlist and the Verilog. Registers get clock enables instead of multiplexers of their old value: half as
much text as without, and a Verilated model that builds and runs in two thirds of the time."""

ATTRIBUTES = "attrmap -remove unused_bits; attrmap -modattr -remove generator -remove top"
"""Attributes that say nothing to a reader or a tool are left out; `ram_style` and `no_rw_check` stay."""


def convert(config: Config) -> str:
    """The Verilog text: module `loralith`. The same configuration always gives the same bytes."""
    from loralith.rtl.top import Loralith

    return text(Loralith(config), MODULE)


def convert_linked(config: Config, divider: int, memory_base: int, memory_bytes: int, clock_hz: int) -> str:
    """The Verilog text of the accelerator behind a serial link, module `loralith_linked`. Raises ConfigError for a link that cannot be."""
    from loralith.soc.link.link import LinkConfig
    from loralith.soc.linked import LinkedAccelerator

    try:
        link = LinkConfig(divider, config.bus_bytes, config.hash, memory_base, memory_bytes, clock_hz)
        top = LinkedAccelerator(config, link)
        return text(top, LINKED)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def convert_baseline(name: str, rows: int, cols: int) -> str:
    """The Verilog text of a floating-point array, module `float_array`: ``name`` is one of `baseline.float_array.FORMATS`."""
    from loralith.baseline.float_array import FORMATS, FloatArray

    return text(FloatArray(FORMATS[name], rows, cols), "float_array")


def convert_sdram(mhz: float, cas: int) -> str:
    """The Verilog text of the memory controller of the ULX3S by itself, module `sdram_system`, its memory from `MEMORY_BASE` on.

    Raises ConfigError for a clock or a CAS latency that the chip does not take.
    """
    from loralith.soc.sdram.system import SdramSystem
    from loralith.spec.sdram import ULX3S, SdramTiming

    try:
        timing = SdramTiming.of(ULX3S, mhz, cas)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return text(SdramSystem(ULX3S, timing, base=MEMORY_BASE, id_bits=2), "sdram_system")


def convert_board(config: Config, mhz: float, cas: int, divider: int) -> str:
    """The Verilog text of the whole system for simulation, module `loralith_board`: `soc.ulx3s.SimulatedBoard`, with the ULX3S's memory.

    Raises ConfigError for a configuration whose bus does not fit, and for a clock or a CAS latency that the chip does not take.
    """
    from loralith.soc.ulx3s import SimulatedBoard

    return text(SimulatedBoard(config, _settings(mhz, cas, divider, io_cells=False)), "loralith_board")


def convert_ulx3s(config: Config, mhz: float, cas: int, divider: int, *, accelerator: bool = True) -> str:
    """The Verilog text of the ULX3S's system, module `ulx3s`: `soc.ulx3s.Ulx3s`; ``accelerator``: see `soc.system.SystemSettings`.

    Raises ConfigError as `convert_board` does.
    """
    from loralith.soc.ulx3s import Ulx3s

    try:
        board = Ulx3s(config, replace(_settings(mhz, cas, divider, io_cells=True), accelerator=accelerator))
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return text(board, "ulx3s", [*(getattr(board, name) for name in board.signature.members), *board.io_ports])


def _settings(mhz: float, cas: int, divider: int, *, io_cells: bool) -> Any:
    from loralith.soc.system import SystemSettings
    from loralith.spec.sdram import ULX3S, SdramTiming

    try:
        timing = SdramTiming.of(ULX3S, mhz, cas)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return SystemSettings(ULX3S, timing, divider, io_cells)


def text(component: Any, name: str, ports: Any = None) -> str:
    """The Verilog text of a component as module ``name``."""
    from amaranth._toolchain.yosys import find_yosys  # what amaranth.back.verilog itself calls; it takes no passes of one's own
    from amaranth.back.rtlil import convert as to_rtlil  # pyright: ignore[reportMissingImports]  # unknown to amaranth-stubs

    # The ports come from the component's signature: all of them and no other, unless they are given.
    rtlil = to_rtlil(component, name=name, ports=ports, emit_src=False)
    script = f"read_rtlil <<rtlil\n{rtlil}\nrtlil\n{PASSES}\n{ATTRIBUTES}\nwrite_verilog -norename\n"
    with _without_working_folder():
        yosys = find_yosys(lambda version: version >= (0, 40))
        verilog = yosys.run(["-q", "-"], script, ignore_warnings=True)
    return modules_once(_lanes_as_loops(_zeros_as_loops(verilog)))


@contextmanager
def _without_working_folder() -> Iterator[None]:
    """Amaranth runs its Yosys by `python -m`, which looks for modules in the working folder first: a random.py there would be imported."""
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before


def modules_once(verilog: str) -> str:
    """One module where Amaranth writes one for each instance: for modules that differ in a number at the end of their names alone."""
    module = r"^module (\\\S+) (\(.*?^endmodule\n)"
    alike: dict[tuple[str, str], list[str]] = {}
    for name, body in re.findall(module, verilog, flags=re.MULTILINE | re.DOTALL):
        alike.setdefault((name.rstrip("0123456789"), _numbered(body)), []).append(name)
    groups = [(stem, names) for (stem, _), names in alike.items() if len(names) > 1]
    stems = Counter(stem for stem, _ in groups)  # different modules under one stem keep their names
    shared = {name: stem for stem, names in groups if stems[stem] == 1 for name in names}
    written: set[str] = set()

    def once(match: re.Match[str]) -> str:
        name, body = match.groups()
        if name not in shared:
            return match[0]
        if shared[name] in written:
            return ""
        written.add(shared[name])
        return f"module {shared[name]} {_numbered(body)}"

    verilog = re.sub(module, once, verilog, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"^  (\\\S+) (?= \S+ \()", lambda match: f"  {shared.get(match[1], match[1])} ", verilog, flags=re.MULTILINE)


def _numbered(body: str) -> str:
    """``body`` with Yosys's numbers, which count through all modules, from 0 on."""
    numbers: dict[str, str] = {}
    return re.sub(r"(?<=\\\$procmux\$)\d+", lambda match: numbers.setdefault(match[0], str(len(numbers))), body)


def _zeros_as_loops(verilog: str) -> str:
    """One loop where Yosys writes `memory[i] = 0;` once per word."""
    blocks = itertools.count()

    def loop(match: re.Match[str]) -> str:
        start, indent, memory, zero = match.groups()
        words = match[0].count("\n") - 1
        return (
            f"{start}initial begin : zeros{next(blocks)}\n{indent}integer word;\n"
            f"{indent}for (word = 0; word < {words}; word = word + 1) {memory}[word] = {zero};\n"
        )

    zeros = r"^( *)initial begin\n( *)(\\?\S+ ?)\[0\] = (\d+'h0+);\n(?:\2\3\[\d+\] = \4;\n)*"
    return re.sub(zeros, loop, verilog, flags=re.MULTILINE)


def _lanes_as_loops(verilog: str) -> str:
    """One loop, in the form that every tool knows as write enables per byte, where Yosys writes a statement per lane.

    A simulator then looks at one enable per memory and cycle where it looked at one per lane: a third of the time of a model.
    """
    blocks = itertools.count()

    def loop(match: re.Match[str]) -> str:
        indent, enable, memory, address, width, data = match.group(1, 2, 3, 4, 5, 6)
        lanes, width = match[0].count("<="), int(width) + 1
        # Lane l takes part first + l, modulo as many as there are: a memory's bytes may be rotated.
        parts = [int(low) // width for low in re.findall(r":(\d+)\];\n", match[0])]
        period = max(parts) + 1
        for lane, part in enumerate(parts):
            into, given = (f"[{width * at + width - 1}:{width * at}]" for at in (lane, part))
            line = f"if ({enable}[{lane}])\n{indent}  {memory}[{address}]{into} <= {data}{given};\n"
            if part != (parts[0] + lane) % period or line not in match[0]:
                return match[0]
        i, rotated = f"{width}*lane +: {width}", f"{width}*((lane + {parts[0]}) % {period}) +: {width}"
        return (
            f"{indent}if (|{enable}) begin : lanes{next(blocks)}\n{indent}  integer lane;\n{indent}  /* verilator unroll_disable */\n"
            f"{indent}  for (lane = 0; lane < {lanes}; lane = lane + 1)\n"
            f"{indent}    if ({enable}[lane]) {memory}[{address}][{i}] <= {data}[{i if parts == list(range(lanes)) else rotated}];\n"
            f"{indent}end\n"
        )

    first = r"^( *)if \((\S+ ?)\[0\]\)\n +(\\?\w+ ?)\[(.+?)\]\[(\d+):0\] <= (.+)\[\d+:\d+\];\n"
    others = r"(?:\1if \(\2\[\d+\]\)\n +\3\[\4\]\[\d+:\d+\] <= \6\[\d+:\d+\];\n)+"
    return re.sub(first + others, loop, verilog, flags=re.MULTILINE)


def describe(config: Config, text: str) -> dict[str, Any]:
    """What the Verilog was made from: configuration, its hash, the interface version and the text's SHA-256."""
    return {
        "module": MODULE,
        "version": list(VERSION),
        "config": config.as_dict(),
        "config_hash": f"0x{config.hash:08X}",
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
    }
