"""Whether the block with the mutant that is selected does what the original does, for all inputs and from reset on.

Both are put side by side with the same inputs; that an output differs is then never reached. ABC finds registers and gates of the two that
always have the same value, by induction, and takes each pair for one; what is left goes to property-directed reachability.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .schemata import SchemaMutant

__all__ = ["METHOD", "prepare"]

SAME = "the netlist of every block of the plan is the original's"
METHOD = "signal correspondence and PDR (ABC)"
YOSYS = """
read_rtlil {name}.il
hierarchy -top top
proc
flatten
memory -nordff
opt -full
rename top {name}
design -stash {name}
"""
MITER = """
design -copy-from gold -as gold gold
design -copy-from gate -as gate gate
miter -equiv -flatten gold gate miter
hierarchy -top miter
delete gold gate
setundef -undriven -zero
techmap
dfflegalize -cell $_DFF_P_ 01
abc -g AND -fast
opt_clean
write_aiger -zinit miter.aig
"""
ABC = (
    "read_aiger miter.aig; strash; scorr; scorr -F 2; dc2; scorr -F 4; write_aiger left.aig; pdr -T {seconds}",
    "read_aiger left.aig; strash; iprove",  # where no register is left, which PDR takes no interest in
)


def prepare(request: dict[str, Any]) -> Callable[[SchemaMutant], str]:
    """Parameters: request, with `config`, fields of a configuration whose blocks' parameters are taken."""
    from amaranth.back import rtlil

    from loralith.spec.config import Config

    from .emission import Emission

    made = {block.__name__: (block, list(ways.values())) for block, ways in Emission(Config(**request["config"])).made.items()}
    originals = {
        name: [rtlil.convert(made[name][0](*a, **k), name="top", emit_src=False) for a, k in made[name][1]]
        for name in request["blocks"]
        if name in made
    }
    folder = Path(request["folder"]) / "equivalence"

    def ask(mutant: SchemaMutant) -> str:
        if mutant.block not in made:
            return ""
        changed = False
        # A method of the class may be another block's, which then differs where its own does not.
        for name in (mutant.block, *(name for name in originals if name != mutant.block)):
            for text, original in differing(name):
                changed = True
                if not equal(original, text, folder, request["seconds"] // 8):
                    return ""
            if changed:
                return METHOD
        return SAME

    def differing(name: str) -> Iterator[tuple[str, str]]:
        """The netlists of a class with the mutant, each with the original's, that are not the same."""
        block, ways = made[name]
        for (arguments, keywords), original in zip(ways, originals[name], strict=True):
            text = rtlil.convert(block(*arguments, **keywords), name="top", emit_src=False)
            if text != original:
                yield text, original

    return ask


def equal(one: str, other: str, folder: Path, seconds: int) -> bool:
    """Whether two netlists, RTLIL with a module `top` of the same ports, are proved to give the same outputs."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gold.il").write_text(one, encoding="utf-8")
    (folder / "gate.il").write_text(other, encoding="utf-8")
    (folder / "miter.ys").write_text(YOSYS.format(name="gold") + YOSYS.format(name="gate") + MITER, encoding="utf-8")
    command = shlex.split(f"{shlex.quote(sys.executable)} -P -m loralith.verif.formal.sby_yosys -ql yosys.log miter.ys")
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=seconds)
        if done.returncode:
            raise RuntimeError(f"Yosys ended with {done.returncode}: {done.stderr[-2000:]}")
        spec = find_spec("pyosys")
        assert spec is not None
        assert spec.origin is not None
        abc = Path(spec.origin).parent / "yosys-abc"
        said = ""
        for commands in ABC:
            command = [str(abc), "-c", commands.format(seconds=seconds)]
            said += subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=2 * seconds).stdout
    except subprocess.TimeoutExpired:
        return False
    (folder / "abc.log").write_text(said, encoding="utf-8")
    return "Property proved" in said or bool(re.search(r"^UNSATISFIABLE", said, re.MULTILINE))
