"""`loralith sim-board`: a fine-tune through the simulated board's pins, beside the same one on the reference device."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loralith.cli import output

if TYPE_CHECKING:
    from loralith.board.simulation import PinSimulation
    from loralith.methods.settings import FinetuneSettings
    from loralith.training.loop import Progress

BOARD_BAUD = 3e6
"""Of the board's own line."""
ESTIMATED_STEPS = 200
BITS = 10
"""Of a byte on the line."""
PATIENCE = 30.0
"""Seconds without a sign of the simulated board, which runs hundreds of times slower than a real one."""
TELL_EVERY = 10.0
LISTEN_STEP = 0.5


def register(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("sim-board", help="fine-tune on the simulated board, to its pins; or leave it open for other programs")
    parser.add_argument("--listen", action="store_true", help="print the board's serial port and run until Ctrl-C; trains nothing")
    parser.add_argument(
        "--output", type=Path, default=Path("build/sim-board"), help="folder of the results, made anew (default: %(default)s)"
    )
    parser.add_argument("--config", default="tiny", help="preset or JSON file with a bus of 8 bytes (default: tiny)")
    parser.add_argument("--steps", type=int, default=2, help="training steps (default: 2)")
    parser.add_argument("--batch", type=int, default=1, help="images per step (default: 1)")
    parser.add_argument("--targets", default="kv", help="projections with an adapter: kv, all, or names with commas (default: kv)")
    parser.add_argument("--digit", type=int, default=8, help="held-out class to learn, 8 or 9 (default: 8)")
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mhz", type=float, default=80, help="the board's clock (default: 80)")
    parser.add_argument("--baud", type=float, default=20e6, help="of the simulated line; a board's has 3000000 (default: 20000000)")
    parser.set_defaults(run=run)


def check(args: argparse.Namespace) -> None:
    """Raises LoralithError and ConfigError for what no board can be simulated with; builds nothing."""
    from loralith.errors import LoralithError
    from loralith.spec.config import ConfigError, load_config
    from loralith.spec.link import divider
    from loralith.spec.sdram import BEAT_BYTES

    config = load_config(args.config)
    if config.bus_bytes != BEAT_BYTES:
        raise ConfigError(f"the board's memory controller has a bus of {BEAT_BYTES} bytes, and {config.name} one of {config.bus_bytes}")
    if not 10 <= args.mhz <= 133:
        raise LoralithError(f"mhz must be in 10..133, the memory chip's clock, not {args.mhz:g}")
    try:
        if args.baud <= 0:
            raise ValueError(f"baud must be above 0, not {args.baud:g}")
        divider(1e6 * args.mhz, args.baud)
    except ValueError as error:
        raise LoralithError(str(error)) from None


def run(args: argparse.Namespace) -> int:
    """Returns 1 where the adapter is not the reference device's, bit for bit."""
    from loralith.board.simulation import PinSimulation
    from loralith.spec.config import load_config

    if args.listen:
        with PinSimulation(load_config(args.config), mhz=args.mhz, baud=args.baud) as board:
            return listen(board, args)
    settings = settings_of(args)
    result = train(settings, args)
    if args.json:
        output.emit_json(result)
    else:
        print_summary(result)
    return 0 if result["bit_exact"] else 1


def listen(board: PinSimulation, args: argparse.Namespace) -> int:
    """Until Ctrl-C, or until the board ends by itself, which is an error."""
    from loralith.device.device_errors import DeviceError

    if args.json:
        output.emit_json({"port": board.port, "config": args.config, "mhz": args.mhz, "baud": args.baud, "pid": board.pid})
    else:
        print(f"serial:{board.port}")
    sys.stdout.flush()  # for a program that reads it while this one runs
    output.log(f"the board with configuration {args.config} runs; Ctrl-C ends it. Another terminal, for example:")
    output.log(f"  loralith bring-up --device serial:{board.port} --config {args.config} --patience {PATIENCE:g}")
    while not board.wait(LISTEN_STEP):
        pass
    raise DeviceError(f"the simulated board has ended: {board.close() or 'no message'}")


def settings_of(args: argparse.Namespace) -> FinetuneSettings:
    from loralith.methods.settings import EvaluationSettings, FinetuneSettings, choose_targets

    return FinetuneSettings(
        output=args.output / "board",
        digit=args.digit,
        rank=args.rank,
        seed=args.seed,
        steps=args.steps,
        batch=args.batch,
        targets=choose_targets(args.targets),
        device="serial:simulated",
        config=args.config,
        verify=True,
        evaluation=EvaluationSettings(rounds=4, samples=8),
    )


def train(settings: FinetuneSettings, args: argparse.Namespace) -> dict[str, Any]:
    """The fine-tune on the board, then on the reference device; figures of both. Raises DeviceError where the board ends: its chip's rules
    are checked."""
    from loralith.board.simulation import PinSimulation
    from loralith.device import open_device
    from loralith.device.device_errors import DeviceError
    from loralith.device.serial import SerialDevice
    from loralith.formats.run_folder import clear_folders
    from loralith.progress import every
    from loralith.reports.result_files import made
    from loralith.spec.config import load_config
    from loralith.training.attaching import attacher
    from loralith.training.loop import finetune
    from loralith.training.sizes import check_sizes

    config, origin = load_config(args.config), made(_command(args))
    check_sizes(settings)
    plain = replace(settings, output=args.output / "reference", device="reference", verify=False)
    clear_folders(settings.output, plain.output)
    rows: list[dict[str, Any]] = []
    with PinSimulation(config, mhz=args.mhz, baud=args.baud) as board:

        def after_step(state: Progress) -> None:
            if state.phase == "train":
                rows.append({"step": state.step, "loss": state.loss, "accelerator_cycles": state.counters["cycles"], **board.stats()})
                output.log(f"step {state.step}/{state.steps}: loss {state.loss:.4f}, {_so_far(board)}")

        try:
            with SerialDevice(config, board.port, patience=PATIENCE) as device:
                shape = (device.memory_bytes, device.memory_base)
                output.log(f"training {settings.steps} steps on the simulated board; one takes about a minute with the usual settings")
                with every(TELL_EVERY, lambda seconds: f"{seconds:.0f} s: {_so_far(board)}"):
                    trained = finetune(settings, attacher(device, verify=True), after_step, origin=origin)
                resent = device.link.resent
        except DeviceError:
            if board.wait(1.0):
                raise DeviceError(f"the simulated board has ended: {board.close() or 'no message'}") from None
            raise
    output.log("the same on the reference device")
    with open_device("reference", config, memory_bytes=shape[0], memory_base=shape[1]) as reference:
        beside = finetune(plain, attacher(reference, verify=False), origin=origin)
    adapters = [(folder / trained.report["result"]).read_bytes() for folder in (trained.folder, beside.folder)]
    return summarize(trained.report, rows, args, exact=adapters[0] == adapters[1]) | {
        "reference_losses_equal": trained.report["losses"] == beside.report["losses"],
        "resent": resent,
        "adapter": str(trained.folder / trained.report["result"]),
    }


def _so_far(board: PinSimulation) -> str:
    from loralith.device.device_errors import DeviceError

    try:
        stats = board.stats()
    except DeviceError as error:  # in a thread that only tells: the training itself ends with it
        return str(error)
    return f"{stats['cycles'] / 1e6:.2f} M cycles, {stats['bytes_to_board']:,} bytes to the board, {stats['bytes_from_board']:,} from it"


def _command(args: argparse.Namespace) -> str:
    names = ("config", "steps", "batch", "targets", "digit", "rank", "seed", "mhz", "baud")
    return " ".join(["loralith sim-board", *(f"--{name} {getattr(args, name)}" for name in names)])


def summarize(report: dict[str, Any], rows: list[dict[str, Any]], args: argparse.Namespace, *, exact: bool) -> dict[str, Any]:
    """Figures of a run. ``rows``: after each step loss, the accelerator's cycles so far, and the board's `stats`. ``exact``: both devices'
    adapters are equal."""
    last, counters = rows[-1], report["counters"]
    return {
        "config": args.config,
        "steps": len(rows),
        "losses": [row["loss"] for row in rows],
        "held_out_loss": report["held_out_loss"],
        "bit_exact": exact and counters["bit_exact"],
        "elements_compared": counters["elements_compared"],
        "mhz": args.mhz,
        "baud": args.baud,
        "cycles": last["cycles"],
        "line_cycles": last["line_cycles"],
        "accelerator_cycles": last["accelerator_cycles"],
        "bytes_to_board": last["bytes_to_board"],
        "bytes_from_board": last["bytes_from_board"],
        "memory_bytes": 2 * last["words"],
        "refreshes": last["refreshes"],
        "estimate": estimate(rows, args.mhz),
        "each_step": rows,
        "seconds": report["seconds"],
    }


def estimate(rows: list[dict[str, Any]], mhz: float) -> dict[str, Any] | None:
    """Seconds of `ESTIMATED_STEPS` steps at the board's own baud rate, from the steps after the first; None where there is none.

    Both directions of the line and the accelerator one after the other. USB's latency and the host's own work come on top.
    """
    if len(rows) < 2:
        return None

    def per_step(name: str) -> float:
        return (rows[-1][name] - rows[0][name]) / (len(rows) - 1)

    line = {way: per_step(f"bytes_{way}_board") for way in ("to", "from")}
    set_up = BITS / BOARD_BAUD * sum(rows[0][f"bytes_{way}_board"] - line[way] for way in line)
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


def print_summary(result: dict[str, Any]) -> None:
    previous = dict.fromkeys(result["each_step"][0], 0)
    rows = []
    for row in result["each_step"]:
        names = ("cycles", "accelerator_cycles", "bytes_to_board", "bytes_from_board")
        rows.append((row["step"], f"{row['loss']:.4f}", *(f"{row[name] - previous[name]:,}" for name in names)))
        previous = row
    columns = ("step", "loss", "cycles", "of the accelerator", "bytes to the board", "from it")
    output.table(f"{result['steps']} steps on the simulated board ({result['config']}, {result['mhz']:g} MHz)", columns, rows)
    cycles = result["cycles"]
    held = result["held_out_loss"]
    found: list[tuple[str, str]] = [
        (
            "bit-exact with the reference",
            f"{'yes' if result['bit_exact'] else 'NO'}, {result['elements_compared']:,} elements, and the adapter",
        ),
        ("held-out loss", f"{held['before']:.4f} -> {held['after']:.4f}"),
        ("simulated cycles", f"{cycles:,}, {cycles / result['mhz'] / 1e6:.3f} s of the board"),
        ("a byte on the line", f"{result['line_cycles'] / cycles:.1%} of them, at {result['baud'] / 1e6:g} Mbaud"),
        ("a list running", f"{result['accelerator_cycles'] / cycles:.1%} of them"),
        ("bytes at the memory's pins", f"{result['memory_bytes']:,}, {result['refreshes']:,} refreshes, no rule broken"),
        ("sent again", str(result["resent"])),
        ("adapter", result["adapter"]),
        ("seconds of training", f"{result['seconds']:.1f}"),
    ]
    if about := result["estimate"]:
        found.append(
            (
                f"{about['steps']} such steps on a board, at 3 Mbaud",
                f"about {about['seconds']:.0f} s after {about['set_up_seconds']:.1f} s of set-up; {about['link_share']:.0%} of it the line",
            )
        )
    output.table("The board", ("", ""), found)
