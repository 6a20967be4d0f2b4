"""Operands of LoRA linears for runs on a device, and what must come out, from the products' definition."""

from __future__ import annotations

import numpy as np

from loralith.compiler.schedules.shared_text import TextTensors
from loralith.compiler.schedules.training_step import Linear, Tensors, output_scale
from loralith.compiler.storage.layout import MatrixLayout, skinny_shape
from loralith.device.device import Device
from loralith.errors import LoralithError
from loralith.spec.numerics import Requantization

__all__ = ["Mismatch", "check_results", "fill", "random_matrix", "write_matrix"]


class Mismatch(LoralithError):
    """A result of the device is not what the products' definition gives."""


def random_matrix(rng: np.random.Generator, rows: int, cols: int) -> np.ndarray:
    """INT8 [rows, cols], normal with a standard deviation of 40, rounded and cut off at 127: the spread of quantized operands."""
    return np.clip(np.rint(rng.standard_normal((rows, cols), np.float32) * 40), -127, 127).astype(np.int8)


def write_matrix(device: Device, layout: MatrixLayout, values: np.ndarray) -> None:
    """Puts ``values``, of the layout's rows and columns, where the layout has its address."""
    device.write(layout.address, layout.pack(values))


def fill(device: Device, linear: Linear, tensors: Tensors | TextTensors, seed: int, x: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Writes a linear's operands to `tensors`: random INT8 that follow from `seed` and the sizes, `x` [T, I] instead where it is given.

    Of `TextTensors` x is the caller's to write. Returns what must come out, by the names of `Tensors`: INT8 h [T, r], y [T, O], dh [T, r]
    and dx [T, I], INT32 db [O, r] and da [I, r]; products in float64, where they are exact, requantized with `output_scale`, half to even.
    """
    config = device.config
    rng = np.random.default_rng([seed, linear.T, linear.I, linear.O, linear.rank])
    T, I, O, r = linear.T, linear.I, linear.O, linear.rank

    x = random_matrix(rng, T, I) if x is None else x
    w, dy = random_matrix(rng, O, I), random_matrix(rng, T, O)
    a, b, a_chain, b_chain = (random_matrix(rng, *shape) for shape in ((r, I), (O, r), (r, I), (O, r)))
    skinny = skinny_shape(r, config)
    images = {"w": w, "dy": dy, "b_chain": np.ascontiguousarray(b_chain.T)}
    if isinstance(tensors, Tensors):
        images |= {"x": x, "a_chain": a_chain}
        device.write(tensors.zeros, bytes(64))
    for name, thin in (("a", a.T), ("b", b)):
        images[name] = skinny.right_image(np.ascontiguousarray(thin), config)
    for name, values in images.items():
        write_matrix(device, getattr(tensors, name), values)

    def product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return left.astype(np.float64) @ right.astype(np.float64)  # exact: sums stay far below 2**53

    forward, backward = output_scale(I), output_scale(O)
    h = _requantize(product(x, a.T), forward)
    dh = _requantize(product(dy, b), backward)
    results = {
        "h": h,
        "y": _requantize(product(x, w.T) + product(h, b_chain.T), forward),
        "dh": dh,
        "db": product(dy.T, h).astype(np.int32),
        "da": product(x.T, dh).astype(np.int32),
    }
    if linear.dx:
        results["dx"] = _requantize(product(dy, w) + product(dh, a_chain), backward)
    return results


def _requantize(acc: np.ndarray, scale: Requantization) -> np.ndarray:
    """Round half to even of acc * mantissa / 2**shift, saturated; exact in float64."""
    return np.clip(np.rint(acc * scale.mantissa * 2.0**-scale.shift), -127, 127).astype(np.int8)


def check_results(device: Device, linear: Linear, tensors: Tensors | TextTensors, results: dict[str, np.ndarray]) -> None:
    """Compares what lies at `tensors` with `results` of `fill`. Raises Mismatch, which names the first element that differs."""
    for name, expected in results.items():
        layout: MatrixLayout = getattr(tensors, name)
        found = layout.unpack(device.read(layout.address, layout.nbytes), expected.dtype)[:, : expected.shape[1]]
        wrong = np.argwhere(found != expected)
        if len(wrong):
            at = tuple(int(i) for i in wrong[0])
            raise Mismatch(
                f"{linear.name}, rank {linear.rank}: {name}{list(at)} is {found[at]}, must be {expected[at]}; {len(wrong)} differ"
            )
