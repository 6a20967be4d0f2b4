"""`loralith soak --vector N`: random elements through the vector unit's lanes in native code, compared with a soft float."""

from __future__ import annotations

import argparse

from loralith.cli import output

__all__ = ["run"]


def run(args: argparse.Namespace) -> int:
    """Returns 1 where an element differs. Every operation runs at least ``args.vector`` elements, in whole blocks."""
    from loralith.soak.lanes import OPERATIONS
    from loralith.soak.lanes.resumable_soak import VectorSoak

    soak = VectorSoak(args.seed, args.state)
    result = soak.result
    output.log(f"seed {result['seed']}")
    difference = soak.run(args.vector, output.log)
    if args.json:
        output.emit_json(result)
    elif difference is None:
        seconds = 1e6 * result["seconds"] / result["elements"]
        print(
            f"{result['elements']:,} elements in {len(OPERATIONS)} operations, all as the soft float says"
            f" (seed {result['seed']}, {result['seconds']:.0f} s, {seconds:.2f} s per 10^6)"
        )
    else:
        print(f"{difference.operation}, block {difference.block} of seed {result['seed']}: {difference.text}")
    return 0 if difference is None else 1
