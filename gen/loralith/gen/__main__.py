"""`python -m loralith.gen`: the driver calls it as a subprocess, so that it never imports amaranth itself."""

import argparse

from loralith.gen import cli

parser = argparse.ArgumentParser(prog="python -m loralith.gen", description="Emit Verilog, C header and reference pages.")
cli.register(parser)
parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
try:
    status = cli.run(parser.parse_args())
except KeyboardInterrupt:
    status = 130
raise SystemExit(status)
