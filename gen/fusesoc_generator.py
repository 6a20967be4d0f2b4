#!/usr/bin/env python3
"""FuseSoC's generator of the Verilog: `fusesoc_generator.py INPUT`, as `loralith.core` names it.

INPUT is FuseSoC's YAML file: `files_root` (the checkout), `vlnv` (the name of the core to make) and `parameters`, of which `config` is a
preset or a JSON file. In the working folder, which is FuseSoC's, it writes the Verilog and a core file with it. The Verilog comes from the
checkout's `.venv` where `make setup` has made one, else from the `loralith` on PATH.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import yaml  # FuseSoC brings it

VERILOG = "loralith.v"


def command(root: Path) -> list[str]:
    """What runs `loralith gen`."""
    own = root / ".venv" / "bin" / "python"
    if own.is_file():
        return [str(own), "-P", "-m", "loralith.gen"]
    found = shutil.which("loralith")
    if found is None:
        raise SystemExit(f"error: there is neither {own} nor a loralith on PATH; `make setup` in {root} makes the first")
    return [found, "gen"]


def main(path: str) -> None:
    told = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    root, config = Path(told["files_root"]), str(told.get("parameters", {}).get("config", "base"))
    if (root / config).is_file():
        config = str(root / config)
    subprocess.run([*command(root), "verilog", "--config", config, "--output", str(Path(VERILOG).resolve())], check=True)
    files = {"files": [VERILOG], "file_type": "verilogSource"}
    core = {"name": told["vlnv"], "filesets": {"rtl": files}, "targets": {"default": {"filesets": ["rtl"]}}}
    Path("generated.core").write_text("CAPI=2:\n" + yaml.safe_dump(core), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
