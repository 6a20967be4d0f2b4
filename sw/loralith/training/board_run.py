"""A fine-tune through the simulated board's pins, beside the same one on the reference device: `loralith sim-board`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from loralith.board.preloaded import PreloadedDevice
from loralith.board.simulation import PATIENCE, PinSimulation
from loralith.device import open_device
from loralith.device.device_errors import DeviceError
from loralith.device.serial import SerialDevice
from loralith.formats.run_folder import clear_folders
from loralith.methods.settings import FinetuneSettings
from loralith.progress import every
from loralith.spec.config import Config
from loralith.training.attaching import attacher
from loralith.training.loop import Progress, finetune
from loralith.training.sizes import check_sizes

__all__ = ["estimate", "summarize", "train_on_board"]

BOARD_BAUD = 3e6
"""Of the board's own line."""
ESTIMATED_STEPS = 200
BITS = 10
"""Of a byte on the line."""
PROGRESS_SECONDS = 10.0
THROUGH_PINS = 64 * 1024
"""Bytes of a whole step's set-up that go over the line; the rest is in the simulated memory ahead, and is hashed over the line."""


def train_on_board(
    settings: FinetuneSettings,
    config: Config,
    *,
    mhz: float,
    baud: float,
    folder: Path,
    origin: Mapping[str, str],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """The fine-tune on the board, into ``settings.output``, then on the reference device, into ``folder``: figures of both (`summarize`).

    ``mhz`` is the board's clock, ``baud`` the rate of the simulated line. ``say`` gets lines of progress. Raises DeviceError where the
    board ends: its chip's rules are checked.

    With other modules each product on the board is compared with the reference's. With modules "step" the reference device's tensors
    are, with the graph's interpretation, and the board's losses and adapter with the reference device's: the board's tensors would take
    minutes of line. For the same reason most of the set-up is put into the simulated memory (`PreloadedDevice`).
    """
    check_sizes(settings)
    whole_step = settings.modules == "step"
    settings = replace(settings, verify=not whole_step)
    plain = replace(settings, output=folder, device="reference", verify=whole_step)
    clear_folders(settings.output, plain.output)
    rows: list[dict[str, Any]] = []
    with PinSimulation(config, mhz=mhz, baud=baud) as board:

        def after_step(state: Progress) -> None:
            if state.phase == "train":
                rows.append({"step": state.step, "loss": state.loss, "accelerator_cycles": state.counters["cycles"], **board.stats()})
                say(f"step {state.step}/{state.steps}: loss {state.loss:.4f}, {_so_far(board)}")

        try:
            with _opened(config, board, whole_step) as device:
                shape = (device.memory_bytes, device.memory_base)
                say(f"training {settings.steps} steps on the simulated board; one takes about a minute with the usual settings")
                with every(PROGRESS_SECONDS, lambda seconds: f"{seconds:.0f} s: {_so_far(board)}"):
                    trained = finetune(settings, attacher(device, verify=settings.verify), after_step, origin=origin)
                resent = device.link.resent
                starts, preloaded = (device.starts, device.preloaded) if isinstance(device, PreloadedDevice) else ([], 0)
        except DeviceError:
            if board.wait(1.0):
                raise DeviceError(f"the simulated board has ended: {board.close() or 'no message'}") from None
            raise
    say("the same on the reference device")
    with open_device("reference", config, memory_bytes=shape[0], memory_base=shape[1]) as reference:
        beside = finetune(plain, attacher(reference, verify=whole_step), origin=origin)
    adapters = [(run.folder / trained.report["result"]).read_bytes() for run in (trained, beside)]
    losses_equal, verified = trained.report["losses"] == beside.report["losses"], beside if whole_step else trained
    exact = adapters[0] == adapters[1] and losses_equal
    figures = summarize(trained.report, verified.report["counters"], rows, config=config.name, mhz=mhz, baud=baud, exact=exact)
    return figures | {
        "reference_losses_equal": losses_equal,
        "resent": resent,
        "preloaded_bytes": preloaded,
        "estimate": estimate(_start_to_start(starts, rows) if whole_step else rows, mhz, preloaded),
        "adapter": str(trained.folder / trained.report["result"]),
    }


def _opened(config: Config, board: PinSimulation, whole_step: bool) -> SerialDevice:
    if whole_step:
        return PreloadedDevice(config, board, through_pins=THROUGH_PINS, patience=PATIENCE)
    return SerialDevice(config, board.port, patience=PATIENCE)


def _so_far(board: PinSimulation) -> str:
    try:
        stats = board.stats()
    except DeviceError as error:  # in a thread that only tells: the training itself ends with it
        return str(error)
    return f"{stats['cycles'] / 1e6:.2f} M cycles, {stats['bytes_to_board']:,} bytes to the board, {stats['bytes_from_board']:,} from it"


def summarize(
    report: dict[str, Any],
    verified: Mapping[str, Any],
    rows: list[dict[str, Any]],
    *,
    config: str,
    mhz: float,
    baud: float,
    exact: bool,
) -> dict[str, Any]:
    """Figures of a run. ``verified``: counters of the run that was compared with the reference. ``rows``: after each step loss, the
    accelerator's cycles so far, and the board's `stats`. ``exact``: both devices' losses and adapters are equal."""
    last = rows[-1]
    return {
        "config": config,
        "steps": len(rows),
        "losses": [row["loss"] for row in rows],
        "held_out_loss": report["held_out_loss"],
        "bit_exact": exact and verified["bit_exact"],
        "elements_compared": verified["elements_compared"],
        "mhz": mhz,
        "baud": baud,
        "cycles": last["cycles"],
        "line_cycles": last["line_cycles"],
        "accelerator_cycles": last["accelerator_cycles"],
        "bytes_to_board": last["bytes_to_board"],
        "bytes_from_board": last["bytes_from_board"],
        "memory_bytes": 2 * last["words"],
        "refreshes": last["refreshes"],
        "each_step": rows,
        "seconds": report["seconds"],
    }


def _start_to_start(starts: list[dict[str, Any]], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows for `estimate` from one list's start to the next, which leave out the checkpoint after the last step."""
    return [
        {**start, "accelerator_cycles": cycles}
        for start, cycles in zip(starts, [0, *(r["accelerator_cycles"] for r in rows)], strict=False)
    ]


def estimate(rows: list[dict[str, Any]], mhz: float, preloaded: int = 0) -> dict[str, Any] | None:
    """Seconds of `ESTIMATED_STEPS` steps at the board's own baud rate, from the steps after the first; None where there is none.

    Both directions of the line and the accelerator one after the other. USB's latency and the host's own work come on top. ``preloaded``:
    bytes of the set-up that a real board gets over the line too, here without the headers of their frames.
    """
    if len(rows) < 2:
        return None

    def per_step(name: str) -> float:
        return (rows[-1][name] - rows[0][name]) / (len(rows) - 1)

    line = {direction: per_step(f"bytes_{direction}_board") for direction in ("to", "from")}
    set_up = BITS / BOARD_BAUD * (preloaded + sum(rows[0][f"bytes_{direction}_board"] - line[direction] for direction in line))
    link = BITS / BOARD_BAUD * sum(line.values())
    accelerator = per_step("accelerator_cycles") / (1e6 * mhz)
    return {
        "steps": ESTIMATED_STEPS,
        "set_up_seconds": set_up,
        "seconds": ESTIMATED_STEPS * (link + accelerator),
        "link_seconds_per_step": link,
        "accelerator_seconds_per_step": accelerator,
        "link_share": link / (link + accelerator),
    }
