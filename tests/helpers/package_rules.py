"""Which part of loralith may import which: the rules that tests/unit/test_arrows.py checks."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BOARD", "BOARD_ALSO", "BOARD_PARTS", "COMPILER_LAYERS", "LAYERS", "RULES", "SW", "Rule"]


@dataclass(frozen=True)
class Rule:
    """What the modules under `prefix` may import.

    Attributes:
        prefix: dotted name of a module or package; the longest one that fits a module rules it.
        folder: the top folder in which such modules live.
        loralith: dotted names of loralith that it may import, with all that is below them.
        third_party: top names from outside the standard library that it may import; None for any.
        never: top names that it must not import.
    """

    prefix: str
    folder: str
    loralith: tuple[str, ...]
    third_party: tuple[str, ...] | None = None
    never: tuple[str, ...] = ()


# The driver's own packages: whatever is in sw/ apart from the command line. Resolved from the tree, so that a new one needs no edit here.
SW = "<sw>"
BOARD = {"never": ("amaranth", "torch", "cocotb", "diffusers", "peft", "transformers")}

RULES = (
    Rule("loralith.files", "gen", (), third_party=()),
    Rule("loralith.spec", "gen", ("loralith.spec", "loralith.files"), third_party=()),
    Rule(
        "loralith.gen",
        "gen",
        ("loralith.gen", "loralith.rtl", "loralith.soc", "loralith.baseline", "loralith.spec", "loralith.files"),
        never=("torch",),
    ),
    # The pages of mutants and formal properties are generated as well, and a Verilog that holds mutants.
    Rule("loralith.gen.mutants", "gen", ("loralith.gen", "loralith.verif.formal", "loralith.verif.mutation"), third_party=()),
    Rule(
        "loralith.gen.schema_verilog",
        "gen",
        ("loralith.gen", "loralith.rtl", "loralith.spec", "loralith.verif.mutation"),
        never=("torch",),
    ),
    Rule("loralith.rtl", "hw", ("loralith.rtl", "loralith.spec"), third_party=("amaranth",)),
    Rule("loralith.soc", "hw", ("loralith.soc", "loralith.rtl", "loralith.spec"), third_party=("amaranth",)),
    Rule("loralith.baseline", "hw", ("loralith.baseline",), third_party=("amaranth",)),
    Rule("loralith.verif", "verif", ("loralith.verif", "loralith.spec", "loralith.files")),
    # These look into the blocks.
    Rule(
        "loralith.verif.formal",
        "verif",
        ("loralith.verif.formal", "loralith.verif.mutation", "loralith.rtl", "loralith.soc", "loralith.spec"),
    ),
    Rule("loralith.verif.mutation", "verif", ("loralith.verif.mutation", "loralith.rtl", "loralith.spec", "loralith.files")),
    # They run a block's own tests and properties.
    Rule("loralith.verif.mutation.asked_tests", "verif", ("loralith.verif.mutation", "loralith.verif.block_test")),
    Rule("loralith.verif.mutation.asked_formal", "verif", ("loralith.verif.mutation", "loralith.verif.formal")),
    Rule("loralith", "sw", (SW, "loralith.spec", "loralith.files"), never=("amaranth", "cocotb")),
    Rule(
        "loralith.mutants",
        "sw",
        (SW, "loralith.spec", "loralith.files", "loralith.verif.mutation", "loralith.verif.lists", "loralith.verif.test_plans"),
        never=("amaranth", "cocotb"),
    ),
    Rule("loralith.soak", "sw", (SW, "loralith.spec", "loralith.files", "loralith.verif.lists"), never=("amaranth", "cocotb")),
    Rule("loralith.training.verification", "sw", (SW, "loralith.spec", "loralith.files", "loralith.verif"), never=("amaranth", "cocotb")),
    Rule("loralith.step.piece_runs", "sw", (SW, "loralith.spec", "loralith.files", "loralith.verif"), never=("amaranth", "cocotb")),
    Rule(
        "loralith.reports.rtl_report",
        "sw",
        (SW, "loralith.spec", "loralith.files", "loralith.verif.block_inventory"),
        never=("amaranth", "cocotb"),
    ),
    Rule(
        "loralith.reports.testplan_report",
        "sw",
        (SW, "loralith.spec", "loralith.files", "loralith.verif.test_plans"),
        never=("amaranth", "cocotb"),
    ),
    Rule(
        "loralith.reports.simulator_report",
        "sw",
        (SW, "loralith.spec", "loralith.files", "loralith.verif.bench"),
        never=("amaranth", "cocotb"),
    ),
    Rule("loralith.study.reference_schemes", "sw", (SW, "loralith.spec", "loralith.files", "loralith.verif"), never=("amaranth", "cocotb")),
    Rule("loralith.device", "sw", (SW, "loralith.spec", "loralith.files"), **BOARD),
    Rule("loralith.compiler", "sw", (SW, "loralith.spec", "loralith.files"), **BOARD),
    Rule("loralith.lora", "sw", (SW, "loralith.spec", "loralith.files"), **BOARD),
    # It takes any ECP5 netlist: the flow in loralith.synth imports it, never the other way.
    Rule("loralith.placement", "sw", ("loralith.placement", "loralith.errors"), third_party=("numpy", "scipy")),
    Rule("loralith.cli", "sw", ("loralith",)),
    Rule("loralith.__main__", "sw", ("loralith.cli",)),
)

# From the lowest to the highest; those of one line do not import each other.
LAYERS = (
    ("errors",),
    ("places", "progress", "state_file", "toolchain"),
    ("compiler", "formats", "placement"),
    ("device", "diffusion", "synth"),
    ("board", "energy", "lora", "soak"),
    ("mapping", "mutants"),
    ("methods", "step"),
    ("reports",),
    ("training",),
    ("pipeline",),
    ("emoji", "shapes", "study"),
    ("cli",),
)
COMPILER_LAYERS = (("latencies", "lists", "memories", "storage"), ("tokens", "vector_timing"), ("cycles", "proof"), ("schedules", "step"))

# What a board part may take from the rest of sw: another board part, or one of these, which are free of torch and amaranth as well.
BOARD_PARTS = (
    "loralith.device",
    "loralith.compiler",
    "loralith.lora",
)
BOARD_ALSO = ("loralith.errors", "loralith.places", "loralith.progress", "loralith.toolchain", "loralith.spec", "loralith.files")
