"""Build and run `soak.cpp`: random elements through the Verilated lanes, operation by operation."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from loralith.device.native.build import LEVELS, VERILATOR_FLAGS, BuildError, cached, digest, hardware_key, runtime
from loralith.device.native.compile import compile_design
from loralith.progress import tell
from loralith.toolchain import find_verilator, python_module, without_spaces

__all__ = ["ELEMENTS", "OPERATIONS", "Difference", "LaneSoak"]

OPERATIONS = (
    *("from_integer", "multiply", "add", "exp2", "reciprocal", "rsqrt", "phi", "scale"),
    *("brain", "int8", "int8_stochastic", "sum", "maximum", "chain"),
)
"""Each alone in the chain; `chain` draws all of an instruction."""
LANES = 2
ELEMENTS = 4096 * LANES
"""Of a block: it has an instruction and constants of its own, and is drawn from its number, the seed and the operation alone."""
SOURCES = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Difference:
    """The first element that differs: its block, and what the program says of it."""

    operation: str
    block: int
    text: str


class LaneSoak:
    """The program, built where it is not in the cache. Raises BuildError, and ToolchainError where there is no Verilator."""

    def __init__(self) -> None:
        self._program = _build()

    def run(self, operation: str, seed: int, first: int, count: int, timeout: float = 600.0) -> Difference | None:
        """Blocks ``first`` to ``first`` + ``count`` - 1 of ``operation``.

        Raises BuildError where the program fails, or takes more than ``timeout`` seconds.
        """
        command = [str(self._program), operation, str(seed), str(first), str(count)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
            result = json.loads(done.stdout)
        except subprocess.TimeoutExpired:
            raise BuildError(f"{' '.join(command)} takes more than {timeout:g} s") from None
        except ValueError:
            raise BuildError(f"{' '.join(command)} failed: {done.stderr[-2000:]}") from None
        return None if result["block"] is None else Difference(operation, result["block"], result["difference"])


def _build() -> Path:
    verilator = find_verilator()
    sources = sorted((*SOURCES.glob("*.cpp"), *SOURCES.glob("*.h")))
    key = digest(*sources, text=(hardware_key(None), str(verilator.version), *VERILATOR_FLAGS, str(LEVELS)))

    def make(folder: Path) -> None:
        tell("compiling the lanes of the vector unit, once: half a minute")
        command = python_module(
            "loralith.gen", "lanes", "--lanes", str(LANES), "--output", folder / "lanes.v", "--header", folder / "facts.h"
        )
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            raise BuildError(f"no Verilog of the lanes:\n{done.stdout[-4000:]}")
        local = without_spaces(folder.parent) / folder.name
        native = without_spaces(SOURCES)
        verilator.run("--cc", *VERILATOR_FLAGS, "--top-module", "lane_group", "-Mdir", local / "obj", local / "lanes.v")
        flags = f"-I{local} -I{native}"
        compile_design(verilator, local / "obj", [native / "soak.cpp"], local / "soak", runtime=runtime(), flags=flags, levels=LEVELS)

    return cached(f"lanes-{key}", make) / "soak"
