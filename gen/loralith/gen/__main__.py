"""`python -m loralith.gen`: the driver calls it as a subprocess, so that it never imports amaranth itself."""

import argparse

from loralith.gen import cli

parser = argparse.ArgumentParser(prog="python -m loralith.gen", description="Emit Verilog, C header and reference pages.")
cli.register(parser)
raise SystemExit(cli.run(parser.parse_args()))
