"""What to build: a part of the accelerator in a configuration, on a board."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loralith.places import builds
from loralith.spec.config import Config, load_config

from .board import Board, load_board
from .process import Progress
from .synth_error import SynthError

__all__ = ["OPTIONAL_PASSES", "PARTS", "Target", "part_target"]

PARTS = {
    "array": ("loralith.compute.array", "clk"),
    "compute": ("loralith.compute", "clk"),
    "all": ("loralith", "aclk"),
    "soc": ("ulx3s", "clk_25mhz"),
    "soc-shell": ("ulx3s", "clk_25mhz"),
}
"""Part -> module in the emitted Verilog, and its clock. `soc`: the board's whole system, at the package's pins instead of in a
harness; `soc-shell`: the same without the accelerator, whose outputs are 0."""

OPTIONAL_PASSES = ("register_packing", "carry", "fanout", "whitespace", "macros")
"""Modules of `loralith.placement` whose passes a `Target` may leave out, in the order in which they run. Relocation runs last and needs
no run of its own: `Placement` has the clock before it."""

SMOKE = {"rows": 8, "cols": 8, "bus_bytes": 8, "max_fold": 8, "left_bytes": 8192, "right_bytes": 8192, "out_bytes": 4096, "acc_bytes": 4096}
"""The configuration of the part "smoke": every component of the compute unit, small enough to be placed in minutes."""

DSP_PER_LANE = 2
"""18 x 18 multipliers of a lane of the post-processing unit: 32 bit by 16 bit."""


@dataclass(frozen=True)
class Target:
    """What to build and how.

    Attributes:
        part: one of `PARTS`.
        frequency_mhz: target clock of placement and routing; the board's by default.
        without: those of `OPTIONAL_PASSES` that are left out.
        placements: runs of the placer per seed; each has less wire than the one before, more than three were not tried.
        timeout: seconds that one call of a tool may take.
        folder: keeps the steps' results.
        progress: receives lines of progress for the user.
    """

    board: Board
    config: Config
    part: str = "all"
    frequency_mhz: float = 0
    without: frozenset[str] = frozenset()
    placements: int = 3
    timeout: float = 7200
    folder: Path = field(default_factory=lambda: builds() / "synth")
    progress: Progress = lambda line: None

    def __post_init__(self) -> None:
        if self.part not in PARTS:
            raise SynthError(f"part must be one of {', '.join(PARTS)}, not {self.part!r}")
        if unknown := self.without.difference(OPTIONAL_PASSES):
            raise SynthError(f"no pass is called {', '.join(sorted(unknown))}; {', '.join(OPTIONAL_PASSES)} may be left out")
        if not self.frequency_mhz:
            object.__setattr__(self, "frequency_mhz", self.board.constraint_mhz)
        if not 1 <= self.frequency_mhz <= 1000:
            raise SynthError(f"frequency must be in 1..1000 MHz, not {self.frequency_mhz:g}")
        if self.is_system and self.board.soc_pins is None:
            raise SynthError(f"{self.board.name} has no system of its own: its board.toml names no soc_pins")
        needed, available = self.multipliers, self.board.available["dsp"]
        if needed > available:
            raise SynthError(
                f"{self.config.name} does not fit {self.board.part}: {self.config.rows} x {self.config.cols} elements"
                f" take {needed} multipliers, and it has {available}; a configuration of fewer rows or columns (ecp5: 8 x 16) fits"
            )

    @property
    def is_system(self) -> bool:
        """The board's system, which ends in a bitstream."""
        return self.part in ("soc", "soc-shell")

    @property
    def pins(self) -> Path:
        """The file with the pins: the system's, or those of the harness."""
        system = self.board.soc_pins if self.is_system else None
        return self.board.pins if system is None else system

    @property
    def multipliers(self) -> int:
        """18 x 18 multipliers that the part takes: one per element, `DSP_PER_LANE` per post-processing lane."""
        lanes = 0 if self.part == "array" else self.config.rows
        return self.config.processing_elements + DSP_PER_LANE * lanes

    @property
    def peak_macs(self) -> int:
        """Multiply-accumulates per cycle."""
        return self.config.processing_elements

    @property
    def label(self) -> str:
        return f"{self.config.name}-{self.part}"


def part_target(board: str, part: str, config: str | None = None, **rest: Any) -> Target:
    """The target of a board by name and of a part by the command line's name: one of `PARTS`, or "smoke", the compute unit in the
    configuration `SMOKE`. `config` is a preset or a file, the board's by default and of no account for "smoke"; `rest` as for `Target`.

    Raises SynthError and ConfigError.
    """
    loaded = load_board(board)
    if part == "smoke":
        return Target(loaded, Config("smoke", **SMOKE), "compute", **rest)
    return Target(loaded, load_config(config or loaded.config), part, **rest)
