"""What differs between the tools that a board may name: the Yosys script, and what its cells cost."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["COARSE", "FINAL", "FLOWS", "NETLIST", "Flow"]

COARSE = "coarse.json"
"""Statistics before the remaining memories and latches are mapped: after that, latches are loops through LUTs, memories flip-flops."""
FINAL = "modules.json"
NETLIST = "netlist.json"


@dataclass(frozen=True)
class Flow:
    """From Verilog to a netlist of a family's cells.

    Attributes:
        script: of Yosys; {source}, {top} and {folder} are replaced.
        costs: cells of each resource, and how many of it one cell takes.
        units: what each resource is called.
        places: nextpnr places and routes the netlist, inside the harness; otherwise the counts are an estimate and the only result.
    """

    script: str
    costs: dict[str, dict[str, float]]
    units: dict[str, str]
    places: bool


# LUTs of wide functions join through PFUMX and L6MUX21, which take none.
_ECP5 = Flow(
    script=f"""\
read_verilog -sv {{source}}
hierarchy -check -top {{top}}
synth_ecp5 -top {{top}} -noflatten -run begin:map_ffram
tee -q -o {{folder}}/{COARSE} stat -json
synth_ecp5 -top {{top}} -noflatten -run map_ffram:check
tee -q -o {{folder}}/{FINAL} stat -json
autoname
flatten
opt_clean -purge
check -noinit -assert
blackbox =A:whitebox
write_json {{folder}}/{NETLIST}
""",
    costs={
        "lut": {"LUT4": 1, "CCU2C": 2, "TRELLIS_DPR16X4": 6},
        "ff": {"TRELLIS_FF": 1},
        "dsp": {"MULT18X18D": 1, "MULT9X9D": 0.5},
        "bram": {"DP16KD": 1, "PDPW16KD": 1},
    },
    units={"lut": "LUT4", "ff": "flip-flops", "dsp": "18 x 18 multipliers", "bram": "18 kbit block RAMs"},
    places=True,
)

# Wide functions join through MUXF7 and MUXF8, carries through CARRY8: they lie beside the LUTs that they take.
_VIVADO = Flow(
    script=f"""\
read_verilog -sv {{source}}
hierarchy -check -top {{top}}
synth_xilinx -family xcup -top {{top}} -noiopad -run begin:map_ffram
tee -q -o {{folder}}/{COARSE} stat -json
synth_xilinx -family xcup -top {{top}} -noiopad -run map_ffram:check
tee -q -o {{folder}}/{FINAL} stat -json
check -noinit -assert
""",
    costs={
        "lut": {
            **{f"LUT{n}": 1 for n in range(1, 7)},
            **{"SRL16E": 1, "SRLC32E": 1, "RAM32M": 4, "RAM64M": 4, "RAM32M16": 8, "RAM64M8": 8},
            **{"RAM32X1D": 2, "RAM64X1D": 2, "RAM128X1D": 4, "RAM256X1D": 8},
        },
        "ff": {"FDRE": 1, "FDSE": 1, "FDCE": 1, "FDPE": 1},
        "dsp": {"DSP48E2": 1},
        "bram": {"RAMB36E2": 1, "RAMB18E2": 0.5},
    },
    units={"lut": "LUT6", "ff": "flip-flops", "dsp": "DSP48E2", "bram": "36 kbit block RAMs"},
    places=False,
)

FLOWS = {"nextpnr-ecp5": _ECP5, "vivado": _VIVADO}
"""By the `tool` of a board."""
