"""`loralith soak`: random small products on the simulated hardware, every bit compared with numpy.

With `--lists`, random command lists; with `--vector`, elements of the vector unit; with `--kills`, fine-tunes that are killed and resumed.
"""

import argparse
from pathlib import Path

from loralith.cli import output, soak_kills, soak_lists
from loralith.reports import result_files as results

DEVICE = "verilator"


def register(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("soak", help="run random products on the RTL and compare every bit with numpy")
    parser.add_argument("--products", type=int, default=20_000, metavar="N", help="how many, in lists of 200 (default: 20000)")
    parser.add_argument("--seed", type=int, help="of products and stalls; a random one, which is printed, by default")
    parser.add_argument("--config", default="tiny", help="preset or JSON file (default: tiny)")
    parser.add_argument(
        "--device", help="reference, direct, verilator, serial:<port> or pynq:<bitfile> (default: verilator, with --kills direct)"
    )
    parser.add_argument("--stall", type=float, default=0.2, help="most probable stall per bus channel and cycle (default: 0.2)")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="write soak.json and soak.md there (with --lists lists.json and lists.md, with --kills kills.json and kills.md)",
    )
    parser.add_argument(
        "--vector",
        type=int,
        metavar="N",
        help="run N elements for each operation of the vector unit's lanes in place of products; see --state",
    )
    soak_lists.register(parser)
    soak_kills.register(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Returns 1 when a product, a list or a resumed run came out wrong."""
    if args.kills is not None:
        return soak_kills.run(args)
    args.device = args.device or DEVICE
    if args.lists or args.replay:
        return soak_lists.run(args)
    if args.vector is not None:
        from loralith.cli import soak_vector

        return soak_vector.run(args)
    from loralith.device import open_device
    from loralith.soak.products import ProductSoak

    if args.output:
        results.check(args.output / "soak", output.config_files(args))
    on_rtl = args.device == "verilator"
    settings = {"config": args.config, "device": args.device, "stall": args.stall if on_rtl else None}
    soak = ProductSoak(settings, args.seed, args.state)
    result = soak.result
    output.log(f"seed {result['seed']}")
    with open_device(args.device, args.config) as device:
        mismatch = soak.run(device, args.products, output.log)
    if args.output:
        from loralith.soak.soak_report import PRODUCTS_TITLE, products_page

        command = _command(args, result["seed"])
        results.write(args.output / "soak", PRODUCTS_TITLE, command, result, products_page(result), on_rtl=on_rtl)
    if args.json:
        output.emit_json(result)
    elif mismatch is None:
        cost = f"{result['cycles']} {result['cycle_unit']}, {result['seconds']:.0f} s"
        print(f"{result['products']} products in {result['lists']} lists, all exact (seed {result['seed']}, {cost})")
    else:
        print(f"product {mismatch.product} of list {result['lists'] - 1} of seed {result['seed']} is wrong: {mismatch}")
    return 0 if mismatch is None else 1


def _command(args: argparse.Namespace, seed: int) -> str:
    command = f"loralith soak --products {args.products} --seed {seed} --config {args.config} --device {args.device}"
    return f"{command} --stall {args.stall:g}"
