"""Published systems on the same products: cycles in closed form, product by product.

Their products run one by one, without fusion; what each formula leaves out is in `peers.json`, beside its source.
"""

from __future__ import annotations

import csv
import json
import subprocess
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from loralith.compiler.schedules.training_step import Linear
from loralith.errors import LoralithError
from loralith.toolchain import python_module

__all__ = ["SYSTEMS", "REDMULE_ARRAY", "Gemm", "sources", "products", "redmule_cycles", "run_scalesim", "scalesim_cycles"]

SYSTEMS = ("OS", "WS", "IS")
"""SCALE-Sim's dataflows: the result, the weights or the inputs stay in the array."""
REDMULE_ARRAY = (12, 4)
TIMEOUT = 600.0
_CONFIG = """[general]
run_name = product
[run_presets]
InterfaceBandwidth = CALC
UseRamulatorTrace = False
[architecture_presets]
ArrayHeight = {side}
ArrayWidth = {side}
ifmapsramszkB = 8192
filtersramszkB = 8192
ofmapsramszkB = 8192
IfmapOffset = 0
FilterOffset = 10000000
OfmapOffset = 20000000
Dataflow = {dataflow}
ReadRequestBuffer = 64
WriteRequestBuffer = 64
[layout]
IfmapCustomLayout = False
FilterCustomLayout = False
IfmapSRAMBankBandwidth = 10
IfmapSRAMBankNum = 10
IfmapSRAMBankPort = 2
FilterSRAMBankBandwidth = 10
FilterSRAMBankNum = 10
FilterSRAMBankPort = 2
[sparsity]
SparsitySupport = false
SparseRep = ellpack_block
OptimizedMapping = false
BlockSize = 4
RandomNumberGeneratorSeed = 40
"""


def sources() -> dict[str, dict[str, dict[str, str]]]:
    """`peers.json`: of each system its version, and how its cycles were found."""
    return json.loads((Path(__file__).parent / "peers.json").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Gemm:
    """A product of a LoRA layer's step: an M x N result, summed over K."""

    name: str
    M: int
    N: int
    K: int

    @property
    def macs(self) -> int:
        return self.M * self.N * self.K


def products(linear: Linear) -> list[Gemm]:
    """H, XW, HB, dH, dB, dA, and where dX is needed dYW and dHA."""
    T, I, O, r = linear.T, linear.I, linear.O, linear.rank
    found = [("H", T, r, I), ("XW", T, O, I), ("HB", T, O, r), ("dH", T, r, O), ("dB", O, r, T), ("dA", r, I, T)]
    found += [("dYW", T, I, O), ("dHA", T, I, r)] if linear.dx else []
    return [Gemm(*entry) for entry in found]


def scalesim_cycles(product: Gemm, rows: int, cols: int, dataflow: str) -> int:
    """ "Total Cycles" of SCALE-Sim 3.0.0 on a rows x cols array: each tile fills and drains the array, and nothing waits for a memory."""
    M, N, K = product.M, product.N, product.K
    rows_dim, cols_dim, streamed = {"OS": (M, N, K), "WS": (K, N, M), "IS": (K, M, N)}[dataflow]
    load = 0 if dataflow == "OS" else rows
    return -(-rows_dim // rows) * -(-cols_dim // cols) * (load + streamed + rows + cols - 2) - 1


def redmule_cycles(product: Gemm) -> int:
    """RedMulE's 12 x 4 FP16 engine, by a formula fitted to 53 runs of its RTL."""
    return -(-product.M // 12) * -(-product.N // 16) * max(16 * -(-product.K // 4), 46) + 100


def run_scalesim(product: Gemm, side: int, dataflow: str) -> int:
    """The same from SCALE-Sim itself, on a side x side array. Raises LoralithError where it is not installed or fails."""
    if find_spec("scalesim") is None:
        raise LoralithError("scalesim is not installed; `pip install scalesim==3.0.0 'numpy<2.4'` in an environment of its own has it")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "product.cfg").write_text(_CONFIG.format(side=side, dataflow=dataflow.lower()), encoding="utf-8")
        (folder / "product.csv").write_text(f"Layer,M,N,K,\n{product.name},{product.M},{product.N},{product.K},\n", encoding="utf-8")
        layout = ",".join([product.name, *["1"] * 20])
        (folder / "layout.csv").write_text(f"Layer,{',' * 20}\n{layout},\n", encoding="utf-8")
        words = python_module("scalesim.scale", "-c", "product.cfg", "-t", "product.csv", "-l", "layout.csv", "-i", "gemm")
        done = subprocess.run([*words, "-p", "out"], cwd=folder, capture_output=True, text=True, timeout=TIMEOUT, check=False)
        report = folder / "out" / "product" / "COMPUTE_REPORT.csv"
        if not report.is_file():
            raise LoralithError(f"SCALE-Sim gave no COMPUTE_REPORT.csv for {product}: {(done.stderr or done.stdout)[-500:]}")
        with report.open(newline="") as file:
            row = next(csv.DictReader(file, skipinitialspace=True))
        return int(float(row["Total Cycles"]))
