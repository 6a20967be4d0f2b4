"""Tier (i): counts times published energies per operation."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loralith.errors import LoralithError
from loralith.spec.config import Config

from .activity import Activity

__all__ = ["FORMATS", "TIER", "EnergyError", "Format", "counted_energy", "energy", "formats", "nodes", "table"]

TIER = "tier (i): counted operations times published energies; no measurement, no layout"


class EnergyError(LoralithError):
    """A node or format that the table of energies does not have."""


@dataclass(frozen=True)
class Format:
    """Numbers that a machine of this dataflow could compute with.

    Attributes:
        multiply, add: the table's operations of a multiply-accumulate.
        operand_bytes: of X, W, dY, A, B, H and dH. result_bytes: of Y, dX, dA, dB in DRAM. sum_bytes: of an accumulator.
        requantizes: small results pass the post-processing unit's multiplier; others are only rounded.
    """

    name: str
    multiply: str
    add: str
    operand_bytes: int
    result_bytes: int
    sum_bytes: int = 4
    requantizes: bool = False


FORMATS = (
    Format("int8", "multiply_int8", "add_int32", 1, 4, requantizes=True),
    Format("bf16", "multiply_bf16", "add_fp32", 2, 2),
    Format("fp16", "multiply_fp16", "add_fp32", 2, 2),
    Format("fp32", "multiply_fp32", "add_fp32", 4, 4),
)
"""What the machine computes with, and baselines: the same products, dataflow and command lists with wider numbers, summed in FP32."""


def table() -> dict[str, Any]:
    """The data file: sources, units and, per node, the energy of each operation."""
    return json.loads((Path(__file__).parent / "operations.json").read_text(encoding="utf-8"))


def nodes() -> list[str]:
    return list(table()["nodes"])


def formats(node: str) -> list[Format]:
    """The formats that the table has energies for at `node`."""
    known = _node(node)
    return [f for f in FORMATS if f.multiply in known and f.add in known]


def energy(activity: Activity, config: Config, node: str, format: Format) -> dict[str, float]:
    """Joules by cause: `arithmetic` (useful multiply-accumulates), `post_processing`, `on_chip` memories, `dram`; and `total`.

    A memory access is charged by 64 bits, at the smallest published size that holds one bank of the INT8 machine, whatever the format;
    a write costs what a read does. Flip-flops, wires, clock and control are in no published entry and are left out, as is leakage.
    """
    pj = {name: entry["pj"] for name, entry in _node(node).items()}
    for needed in (format.multiply, format.add):
        if needed not in pj:
            raise EnergyError(f"no {needed} at {node}; its formats are {', '.join(f.name for f in formats(node))}")

    def sram(memory: str, nbytes: float) -> float:
        banks = config.banks if memory in ("left", "right", "out") else 1
        size = getattr(config, f"{memory}_bytes") // banks
        entry = "sram_8k" if size <= 8 << 10 else "sram_32k" if size <= 32 << 10 else "sram_1m"
        return nbytes / 8 * pj[entry]

    operands, sums = format.operand_bytes, format.sum_bytes / 4
    results = format.result_bytes / 4
    post = activity.folds * pj[format.add]
    if format.requantizes:
        # 32 by 16 bit; charged as 32 by 32, the nearest published entry, with one addition for the rounding.
        post += activity.requantized * (pj["multiply_int32"] + pj["add_int32"])
    picojoules = {
        "arithmetic": activity.macs * (pj[format.multiply] + pj[format.add]),
        "post_processing": post,
        "on_chip": sram("left", activity.left * operands)
        + sram("right", activity.right * operands)
        + sram("out", activity.out * operands + activity.out_sums * results)
        + sram("acc", activity.acc * sums),
        "dram": (activity.dram_operands * operands + activity.dram_sums * results + activity.dram_other) / 8 * pj["dram"],
    }
    joules = {name: float(value) * 1e-12 for name, value in picojoules.items()}
    return {**joules, "total": float(sum(joules.values()))}


def counted_energy(macs: int, dram_bytes: int, node: str) -> dict[str, float]:
    """Joules of INT8 `arithmetic` and `dram` for a device's counters, which do not tell what the on-chip memories and the post-processing
    did. Raises EnergyError for an unknown node."""
    pj = {name: entry["pj"] for name, entry in _node(node).items()}
    int8 = FORMATS[0]
    return {"arithmetic": macs * (pj[int8.multiply] + pj[int8.add]) * 1e-12, "dram": dram_bytes / 8 * pj["dram"] * 1e-12}


def _node(node: str) -> dict[str, dict[str, Any]]:
    known = table()["nodes"]
    if node not in known:
        raise EnergyError(f"node must be one of {', '.join(known)}, not {node!r}")
    return known[node]
