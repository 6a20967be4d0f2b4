"""What a training step of a whole model costs: which layers run where, multiplications, weights, what is saved, traffic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from loralith.compiler.schedules.gradient import gradient_traffic
from loralith.compiler.schedules.pass_plan import pass_traffic
from loralith.compiler.storage.layout import int_layout, row_major, skinny_shape
from loralith.device.products import plan_product
from loralith.mapping.planning.trace import Step, Trace
from loralith.spec.config import Config

__all__ = ["plan", "step_traffic"]

LAYOUTS = {
    # left_transposed, right_transposed, left_resident, right_resident
    "Y": (False, True, False, True),
    "dX": (False, False, False, True),
    "S": (False, True, True, True),
    "O": (False, False, True, True),
    "dV": (True, False, True, False),
    "dP": (False, True, False, True),
    "dQ": (False, False, False, True),
    "dK": (True, False, False, True),
}
"""How the products of frozen layers and of attention read their operands."""
WEIGHTS = ("Y", "dX")
"""Those whose right operand is a frozen W."""


def step_traffic(step: Step, config: Config, weight_bits: int = 8) -> tuple[int, int]:
    """(bytes read, bytes written) between the machine and its DRAM for one pass of a mapped module, commands not counted; for a LoRA layer
    about. ``weight_bits``: of frozen W, 8 or 4."""
    s = step.sizes
    parts: list[tuple[int, int]] = []
    if "r" in s:
        T, I, O, r = s["T"], s["I"], s["O"], s["r"]
        parts = [
            pass_traffic(T, I, O, r, config, weight_bits=weight_bits),
            pass_traffic(T, O, I, r, config, output=step.dx, weight_bits=weight_bits),
        ]
        parts += [gradient_traffic(T, O, r, config), gradient_traffic(T, I, r, config)]
        parts = parts if step.reached else parts[:1]
    else:
        for product in step.products:
            names = ("left_transposed", "right_transposed", "left_resident", "right_resident")
            how = dict(zip(names, LAYOUTS[product.name], strict=True))
            bits = weight_bits if product.name in WEIGHTS else 8
            batch, _ = plan_product(product.M, product.N, product.K, config, count=product.count, right_bits=bits, **how)
            parts.append(tuple(product.count * part for part in batch.plan.traffic(config)))  # type: ignore[arg-type]
    return sum(part[0] for part in parts), sum(part[1] for part in parts)


def saved_bytes(step: Step, config: Config, first: bool) -> tuple[int, int]:
    """What one pass of a module saves for its backward pass: (INT8 on the device and what the host keeps beside it, FP32 in torch).

    ``first``: no layer before has saved the same input. What a module of kind "other" saves in torch is not counted.
    """
    s = step.sizes
    if step.choice.kind == "attention":
        n, Tq, Tk, d = s["n"], s["Tq"], s["Tk"], s["d"]
        shapes = {"Q": (Tq, d), "K": (Tk, d), "V": (Tk, d), "P": (Tq, Tk)}
        scores = "Q" in step.gradients or "K" in step.gradients
        kept = {"K": "Q" in step.gradients, "Q": "K" in step.gradients, "V": scores, "P": bool(step.gradients)}
        names = [name for name, is_kept in kept.items() if is_kept]
        int8 = sum(row_major(n * shapes[name][0], shapes[name][1], config).nbytes for name in names)
        rows = 4 * n * Tq if names else 0
        return int8 + rows, 4 * n * sum(shapes[name][0] * shapes[name][1] for name in names)
    if step.choice.kind == "other":
        return 0, 0
    if step.choice.kind in ("conv", "windows"):
        return 0, 4 * step.input_elements if step.dx and first else 0
    if "r" not in s:
        return 0, 0
    T, I, r = s["T"], s["I"], s["r"]
    int8 = (row_major(T, I, config).nbytes if first else 0) + skinny_shape(r, config).packed(T, config).nbytes
    return int8, (4 * T * I if first else 0) + 4 * T * r


def weight_bytes(step: Step, config: Config, weight_bits: int = 8) -> int:
    """Frozen W on the device, and its row scales."""
    s = step.sizes
    return 0 if step.choice.kind in ("attention", "other") else int_layout(s["O"], s["I"], weight_bits, config).nbytes + 4 * s["O"]


def _why(step: Step) -> str:
    if step.choice.reason:
        return step.choice.reason
    if not step.reached and "r" in step.sizes:
        return "trained, but no gradient reaches it: Y"
    if step.choice.kind == "lora":
        return "trained: Y, dX, dA and dB" if step.dx else "trained: Y, dA and dB; nothing before it is trained"
    if step.choice.kind == "attention":
        return "products of attention" + ("" if step.gradients else "; nothing before it is trained")
    return "frozen: Y and dX" if step.dx else "frozen: Y; nothing before it is trained"


def _shape(step: Step) -> str:
    s = step.sizes
    if step.choice.kind == "other":
        return ", ".join(step.operators)
    if step.choice.kind == "attention":
        return f"{s['n']} x ({s['Tq']} x {s['Tk']}), {s['d']} wide"
    return (
        f"{s['T']} x {s['I']} -> {s['O']}" + (f", rank {s['r']}" if "r" in s else "") + (f", {s['groups']} groups" if "groups" in s else "")
    )


def plan(traced: Trace, config: Config, weight_bits: int = 8) -> dict[str, Any]:
    """Figures as JSON values: `macs` of the whole step, `macs_on_device`, `share`, `layers` in the order of the forward pass, `totals` by
    kind. Bytes are those of one step; a module that runs twice has two entries."""
    read: set[int] = set()
    counted: set[str] = set()
    layers: list[dict[str, Any]] = []
    for step in traced.steps:
        device = not step.choice.reason
        first = step.reads not in read
        if step.choice.kind in ("lora", "conv", "windows"):
            read.add(step.reads)
        int8, fp32 = saved_bytes(step, config, first)
        traffic = step_traffic(step, config, weight_bits) if device else (0, 0)
        backward = sum(product.macs for product in step.products if product.backward)
        layers.append(
            {
                "name": step.choice.name,
                "kind": step.choice.kind,
                "where": "device" if device else "torch",
                "why": _why(step),
                "shape": _shape(step),
                "macs": step.macs,
                "share": step.macs / traced.macs,
                "macs_forward": step.macs - backward,
                "macs_backward": backward,
                "weight_bytes": weight_bytes(step, config, weight_bits) if device and step.choice.name not in counted else 0,
                "saved_bytes": int8 if device else fp32,
                "saved_bytes_fp32": fp32,
                "bytes_read": traffic[0],
                "bytes_written": traffic[1],
            }
        )
        counted.add(step.choice.name)
    on_device = sum(layer["macs"] for layer in layers if layer["where"] == "device")
    named = sum(layer["macs"] for layer in layers)
    return {
        "config": config.name,
        "parameters": traced.parameters,
        "macs": traced.macs,
        "macs_on_device": on_device,
        "share": on_device / traced.macs,
        "macs_elsewhere": traced.macs - named,
        "totals": totals(layers),
        "layers": layers,
    }


FIGURES = ("macs", "weight_bytes", "saved_bytes", "saved_bytes_fp32", "bytes_read", "bytes_written")


def totals(layers: Sequence[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Sums by kind and place, as "conv on device"."""
    found: dict[str, Counter[str]] = {}
    for layer in layers:
        sums = found.setdefault(f"{layer['kind']} {'on device' if layer['where'] == 'device' else 'in torch'}", Counter())
        sums["modules"] += 1
        for figure in FIGURES:
            sums[figure] += layer[figure]
    return {name: dict(sums) for name, sums in found.items()}
