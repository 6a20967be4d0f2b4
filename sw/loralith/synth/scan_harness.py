"""Scan harness: the accelerator has more ports than a package has pins, so shift registers connect them to one input and one output."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .synth_error import SynthError

__all__ = ["MODULE", "Port", "ports", "wrap"]

MODULE = "harness"
"""Top module. Ports: clk, scan_in, scan_out."""

_PORT = re.compile(r"^  (input|output) (?:\[(\d+):0\] )?(\\\S+ |\w+);$", re.MULTILINE)


@dataclass(frozen=True)
class Port:
    """A port of a Verilog module; `name` as Verilog writes it, an escaped one with its blank."""

    name: str
    width: int
    output: bool


def ports(verilog: str, module: str) -> list[Port]:
    """The ports of `module` in the text that Amaranth emits, in their order."""
    start = re.search(rf"^module \\?{re.escape(module)} ?\(", verilog, re.MULTILINE)
    if start is None:
        raise SynthError(f"the emitted Verilog has no module {module}; loralith.synth.target.PARTS names it")
    body = verilog[start.start() : verilog.index("\nendmodule", start.start())]
    return [Port(name, int(high or 0) + 1, kind == "output") for kind, high, name in _PORT.findall(body)]


def wrap(verilog: str, module: str, clock: str) -> str:
    """Verilog of the harness around `module`.

    One shift register drives all input bits; all output bits are XORed into another. So synthesis removes nothing of the module, and every
    path through its ports lies between two flip-flops.
    """
    wires, connections = [], []
    taken = {False: 0, True: 0}
    for port in ports(verilog, module):
        if port.name.strip() == clock:
            connections.append(f".{port.name}(clk)")
            continue
        first = taken[port.output]
        taken[port.output] += port.width
        chain = "results" if port.output else "stimulus"
        connections.append(f".{port.name}({chain}[{first + port.width - 1}:{first}])")
    stimulus, results = taken[False], taken[True]
    if not stimulus or not results:
        raise SynthError(f"module {module} has {stimulus} input and {results} output bits; a harness needs at least one of each")
    wires = [f"  reg [{stimulus - 1}:0] stimulus;", f"  wire [{results - 1}:0] results;", f"  reg [{results - 1}:0] gathered;"]
    return "\n".join(
        [
            f"module {MODULE}(input clk, input scan_in, output scan_out);",
            *wires,
            "  always @(posedge clk) begin",
            "    stimulus <= {stimulus, scan_in};",
            f"    gathered <= results ^ {{gathered, gathered[{results - 1}]}};",
            "  end",
            f"  assign scan_out = gathered[{results - 1}];",
            f"  \\{module} dut({', '.join(connections)});",
            "endmodule\n",
        ]
    )
