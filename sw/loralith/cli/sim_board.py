"""`loralith sim-board`: a fine-tune through the simulated board's pins, beside the same one on the reference device."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loralith.cli import output

if TYPE_CHECKING:
    from loralith.board.simulation import PinSimulation
    from loralith.methods.settings import FinetuneSettings

LISTEN_STEP = 0.5


def register(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("sim-board", help="fine-tune on the simulated board, to its pins; or leave it open for other programs")
    parser.add_argument("--listen", action="store_true", help="print the board's serial port and run until Ctrl-C; trains nothing")
    parser.add_argument(
        "--output", type=Path, default=Path("build/sim-board"), help="folder of the results, made anew (default: %(default)s)"
    )
    parser.add_argument(
        "--map", choices=("lora", "all", "step"), default="lora", help="what the board runs, as for finetune (default: lora)"
    )
    parser.add_argument("--config", help="preset or JSON file with a bus of 8 bytes (default: tiny, with --map step tiny-vector)")
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

    config = load_config(_config(args))
    if config.bus_bytes != BEAT_BYTES:
        raise ConfigError(f"the board's memory controller has a bus of {BEAT_BYTES} bytes, and {config.name} one of {config.bus_bytes}")
    if args.map == "step" and not config.vector_lanes:
        raise LoralithError(f"--map step needs a vector unit, which {config.name} has not: tiny-vector, or a file with vector_lanes")
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
    from loralith.reports.result_files import provenance
    from loralith.spec.config import load_config

    config = load_config(_config(args))
    if args.listen:
        with PinSimulation(config, mhz=args.mhz, baud=args.baud) as board:
            return listen(board, args)
    from loralith.training.board_run import train_on_board

    result = train_on_board(
        settings_of(args),
        config,
        mhz=args.mhz,
        baud=args.baud,
        folder=args.output / "reference",
        origin=provenance(_command(args)),
        say=output.log,
    )
    if args.json:
        output.emit_json(result)
    else:
        print_summary(result)
    return 0 if result["bit_exact"] else 1


def listen(board: PinSimulation, args: argparse.Namespace) -> int:
    """Until Ctrl-C, or until the board ends by itself, which is an error."""
    from loralith.board.simulation import PATIENCE
    from loralith.device.device_errors import DeviceError

    if args.json:
        output.emit_json({"port": board.port, "config": _config(args), "mhz": args.mhz, "baud": args.baud, "pid": board.pid})
    else:
        print(f"serial:{board.port}")
    sys.stdout.flush()  # for a program that reads it while this one runs
    output.log(f"the board with configuration {_config(args)} runs; Ctrl-C ends it. Another terminal, for example:")
    output.log(f"  loralith bring-up --device serial:{board.port} --config {_config(args)} --patience {PATIENCE:g}")
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
        modules=args.map,
        config=_config(args),
        evaluation=EvaluationSettings(rounds=4, samples=8),
    )


def _config(args: argparse.Namespace) -> str:
    return args.config or ("tiny-vector" if args.map == "step" else "tiny")


def _command(args: argparse.Namespace) -> str:
    names = ("map", "config", "steps", "batch", "targets", "digit", "rank", "seed", "mhz", "baud")
    values = {**vars(args), "config": _config(args)}
    return " ".join(["loralith sim-board", *(f"--{name} {values[name]}" for name in names)])


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
            f"{'yes' if result['bit_exact'] else 'NO'}, {result['elements_compared']:,} elements, losses and the adapter",
        ),
        ("held-out loss", f"{held['before']:.4f} -> {held['after']:.4f}"),
        ("simulated cycles", f"{cycles:,}, {cycles / result['mhz'] / 1e6:.3f} s of the board"),
        ("a byte on the line", f"{result['line_cycles'] / cycles:.1%} of them, at {result['baud'] / 1e6:g} Mbaud"),
        ("a list running", f"{result['accelerator_cycles'] / cycles:.1%} of them"),
        ("bytes at the memory's pins", f"{result['memory_bytes']:,}, {result['refreshes']:,} refreshes, no rule broken"),
        ("put into memory beside the line, and hashed", f"{result['preloaded_bytes']:,} bytes"),
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
