"""The native model that holds the mutants of many blocks, and the device that runs it with one of them in force."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loralith.device.native.build import (
    CXX_FLAGS,
    LIBRARY,
    MODULE,
    SOURCES,
    VERILATOR_FLAGS,
    cached,
    digest,
    hardware_key,
    processor,
    runtime,
)
from loralith.device.native.compile import Levels, compile_design
from loralith.device.verilator import VerilatorDevice
from loralith.mutants.mutant_error import MutantError
from loralith.progress import tell
from loralith.spec.config import Config
from loralith.toolchain import find_verilator, python_module, without_spaces
from loralith.verif.mutation import choice, generic, pattern, schemata, sites

__all__ = ["Drawn", "MutantDevice", "Schema", "build_schema"]

OWN = Path(__file__).resolve().with_name("select.cpp")
REWRITING = [Path(str(module.__file__)) for module in (choice, generic, pattern, schemata, sites)]
"""What the mutants depend on, beside the hardware."""
LEVELS = Levels("-O1", "-O0", "-O1")
"""Half of the time of a build at -O3, which most mutants do not live long enough to win back."""


@dataclass(frozen=True)
class Drawn:
    """A mutant that the model holds. Attributes: number, what selects it. name, block, module: see `verif.mutation.schemata`."""

    number: int
    name: str
    block: str
    module: str


@dataclass(frozen=True)
class Schema:
    """A built model.

    Attributes: library, its file. mutants: by plan. population: by plan, how many mutants there are, and how many a signal can select.
    """

    library: Path
    mutants: dict[str, list[Drawn]]
    population: dict[str, tuple[int, int]]


def build_schema(config: Config, blocks: Mapping[str, Sequence[str]], count: int, seed: int) -> Schema:
    """A model that holds up to ``count`` mutants of each plan, drawn by ``seed``. Parameters: blocks, names of classes by plan.

    Kept by its content. Raises MutantError where no Verilog comes of it, and what `loralith.device.native.build.build` raises.
    """
    verilator = find_verilator()
    request = json.dumps(
        {"config": config.as_dict(), "blocks": {plan: list(names) for plan, names in blocks.items()}, "count": count, "seed": seed}
    )
    native = sorted((*SOURCES.glob("*.cpp"), *SOURCES.glob("*.h"), *SOURCES.glob("*.vlt"), OWN))
    text = (request, str(verilator.version), *VERILATOR_FLAGS, str(LEVELS), CXX_FLAGS, processor(), os.environ.get("CXX", ""))
    key = digest(*native, *REWRITING, text=(hardware_key(config), *text))

    def make(folder: Path) -> None:
        (folder / "request.json").write_text(request, encoding="utf-8")
        source = folder / f"{MODULE}.v"
        tell(f"writing the Verilog of configuration {config.name} with its mutants, once: minutes")
        command = python_module("loralith.gen.schema_verilog", folder / "request.json", "--output", source)
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            raise MutantError(f"no Verilog with mutants of {', '.join(blocks)}:\n{done.stdout[-4000:]}")
        tell("compiling it, once: minutes")
        sources, output = without_spaces(SOURCES), without_spaces(folder.parent) / folder.name
        verilator.run(
            *("--cc", *VERILATOR_FLAGS, "--top-module", MODULE, "-Mdir", output / "obj"),
            *("--compiler-include", sources / "sign_extension.h", sources / "modules.vlt", output / source.name),
        )
        own, flags = [without_spaces(OWN.parent) / OWN.name], f"{CXX_FLAGS} -I{sources}"
        compile_design(verilator, output / "obj", own, output / LIBRARY, runtime=runtime(), flags=flags, levels=LEVELS, shared=True)

    folder = cached(f"mutants-{key}", make)
    description = json.loads((folder / f"{MODULE}.json").read_text(encoding="utf-8"))
    mutants = {plan: [Drawn(*entry) for entry in entries] for plan, entries in description["mutants"].items()}
    return Schema(folder / LIBRARY, mutants, {plan: tuple(numbers) for plan, numbers in description["population"].items()})


class MutantDevice(VerilatorDevice):
    """The RTL with one mutant in force, from reset on. Attribute: mutant, its number, 0 for none, from the next `power_cycle` on."""

    mutant = 0

    def power_cycle(self) -> None:
        super().power_cycle()
        select = self._library.dll.loralith_select_mutant
        select.restype, select.argtypes = None, [ctypes.c_void_p, ctypes.c_uint32]
        select(self.model.handle, self.mutant)
        self.reset()
