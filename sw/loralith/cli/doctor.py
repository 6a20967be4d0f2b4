"""`loralith doctor`: which of the tools and packages that loralith uses are here, and what installs the others."""

import argparse
from dataclasses import asdict

from loralith.cli import output


def register(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("doctor", help="check tools and packages, and name what installs a missing one")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Returns 1 when something required is missing or too old, else 0. An extra that is not installed is reported, not an error."""
    from loralith.toolchain import check_all

    checks = check_all()
    ok = all(check.ok or not check.required for check in checks)
    if args.json:
        output.emit_json({"ok": ok, "checks": [asdict(check) for check in checks]})
    else:
        rows = [(c.name, c.version or "-", "ok" if c.ok else "MISSING" if c.required else "absent", c.detail) for c in checks]
        output.table("loralith doctor", ["what", "version", "state", "detail"], rows)
    return 0 if ok else 1
