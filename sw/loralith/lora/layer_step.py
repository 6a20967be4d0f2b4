"""The host's half of a LoRA layer's training step: what is quantized before the accelerator runs, and what its integers mean after.

A step goes: `LayerNumerics.forward_operands`, a measuring run of H where `LayerNumerics.must_measure` says so,
`forward_plan`, the accelerator's Y, `y`; then the same for the backward pass. Nothing here multiplies matrices.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from loralith.spec import scales as spec
from loralith.spec.device_shift import DeviceShift, device_shift, expected_maximum
from loralith.spec.numerics import K_LIMIT, Requantization, least_shift
from loralith.spec.scales import Chain
from loralith.spec.scheme import FQT, Role, SchemeError, hash_words

from .quantize import Float32, Int8, Quantized, QuantizedWeight, Stream, dequantize, finite32, quantize, quantize_power
from .rotation import rotate

__all__ = ["BackwardOperands", "BackwardPlan", "ForwardOperands", "ForwardPlan", "LayerNumerics"]

STATE_VERSION = 1


@dataclass(frozen=True)
class ForwardOperands:
    """Quantized operands of a forward pass and their scales: X = sx xq [T, I], A = sa aq [r, I], B[o] = 2**b sw[o] bq[o] [O, r]; X and A
    rotated where the scheme rotates.

    ``a_units`` = A / sa and ``b_units`` = B / sw stay as float32 for the coarser copies that a chain may need. ``clipped`` counts
    values by tensor name. ``alpha`` is this pass's, forward and backward.
    """

    step: int
    call: int
    alpha: float
    xq: Int8
    sx: float
    aq: Int8
    sa: float
    a_units: Float32
    bq: Int8
    b: int
    b_units: Float32
    clipped: Mapping[str, int]

    def scales(self) -> ForwardOperands:
        """Without the tensors, of which the shapes stay: X is on the device, and A and B are quantized again where they are needed."""
        tensors = {name: getattr(self, name) for name in ("xq", "aq", "a_units", "bq", "b_units")}
        return replace(self, **{name: np.broadcast_to(tensor.dtype.type(0), tensor.shape) for name, tensor in tensors.items()})


@dataclass(frozen=True)
class ForwardPlan:
    """What the commands of a forward pass need beside the operands.

    Attributes: ``h`` exponent of H's scale; ``requantization`` of H's accumulators, with the hash ``h_stream`` where H rounds
    stochastically; ``chain`` of Y, (I, r) long; ``b_chain`` int8 [O, r], the copy of B that Y reads; ``y_scale`` float64 [O].
    """

    operands: ForwardOperands
    h: int
    requantization: Requantization
    h_stream: Stream | None
    chain: Chain
    b_chain: Int8
    y_scale: NDArray[np.float64]

    def y(self, acc: NDArray[np.int32]) -> Float32:
        """Y [T, O] from the accelerator's INT32."""
        return dequantize(acc, self.y_scale)


@dataclass(frozen=True)
class BackwardOperands:
    """dY[t, o] sw[o] = g dyq[t, o], [T, O], beside the forward pass that it belongs to. ``clipped`` counts values of dY."""

    forward: ForwardPlan
    dyq: Int8
    g: float
    clipped: int


@dataclass(frozen=True)
class BackwardPlan:
    """What the commands of a backward pass need beside the operands.

    Attributes: ``h_prime`` exponent of dH's scale; ``requantization`` and ``dh_stream`` as for H; ``chain`` of dX, (O, r) long,
    ``a_chain`` int8 [r, I], the copy of A that dX reads (both None without dX); scales of the INT32 results: ``dx_scale``, ``db_scale``
    float64 [O], ``da_scale``; ``block`` of the rotation of X and A, from which dX and dA are rotated back.
    """

    operands: BackwardOperands
    h_prime: int
    requantization: Requantization
    dh_stream: Stream | None
    chain: Chain | None
    a_chain: Int8 | None
    dx_scale: float
    db_scale: NDArray[np.float64]
    da_scale: float
    block: int = 1

    def dx(self, acc: NDArray[np.int32]) -> Float32:
        """dX [T, I] from the accelerator's INT32."""
        return rotate(dequantize(acc, self.dx_scale), self.block)

    def db(self, acc: NDArray) -> Float32:
        """Gradient of B [O, r] from dYq^T Hq, INT32 or the int64 sum of its parts."""
        return dequantize(acc, self.db_scale[:, None])

    def da(self, acc_transposed: NDArray) -> Float32:
        """Gradient of A [r, I] from Xq^T dHq [I, r], INT32 or the int64 sum of its parts."""
        return rotate(np.ascontiguousarray(dequantize(acc_transposed, self.da_scale).T), self.block)


class LayerNumerics:
    """One LoRA layer's numbers on the host.

    Parameters: ``weight``, the frozen quantized W, rotated as `quantize_weight` does it under ``scheme``; ``alpha``, lora_alpha, positive;
    ``scheme``; ``layer``, the layer's place in the host's list. Its state is the history of maxima (`state_dict`). Errors: SchemeError for
    shapes that do not fit, values that are not finite, what `scales.chain` refuses, and a scheme that only the reference runs.
    """

    def __init__(self, weight: QuantizedWeight, alpha: float, scheme: FQT, layer: int = 0) -> None:
        if not alpha > 0:
            raise SchemeError(f"alpha must be positive, not {alpha!r}")
        scheme.require_device()
        self.weight, self.alpha, self.scheme, self.layer = weight, alpha, scheme, layer
        self.block = spec.rotation_block(scheme.rotation, weight.q.shape[1], required=True)
        self.history: dict[str, list[int]] = {"H": [], "dH": []}

    def state_dict(self) -> dict[str, object]:
        """The state as JSON values, the same as the reference's."""
        return {"version": STATE_VERSION, **{name: list(maxima) for name, maxima in self.history.items()}}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Takes over `state_dict`'s value. Raises SchemeError for another version or other names."""
        if state.get("version") != STATE_VERSION or set(state) != {"version", "H", "dH"}:
            raise SchemeError(f"the state must be of version {STATE_VERSION} with H and dH, not {dict(state)!r}")
        self.history = {name: [int(m) for m in state[name]] for name in ("H", "dH")}  # type: ignore[attr-defined]

    def stream(self, role: Role, step: int, call: int = 0) -> Stream | None:
        """The random numbers of a tensor, None where it rounds to nearest."""
        if not self.scheme.is_stochastic(role):
            return None
        return Stream(*hash_words(self.scheme.seed, step, self.layer, role, call))

    def must_measure(self, name: str) -> bool:
        """Whether the exponent of ``"H"`` or ``"dH"`` needs this pass's own maximum, from a measuring run.

        Where the device decides, that run is part of the pass's own list.
        """
        return spec.predicted_maximum(self.history[name], self.scheme) is None

    @property
    def on_device(self) -> bool:
        """Whether the device sets the scales of H and dH."""
        return self.scheme.adapter_scales == "device"

    def _device_shift(self, name: str, operands: ForwardOperands) -> DeviceShift:
        O, I = self.weight.q.shape
        r = len(operands.aq)
        k = I if name == "H" else O
        expected = expected_maximum(self.history[name], k)
        return device_shift(operands.alpha / r, operands.sa, expected, k, r, operands.b if operands.bq.any() else None)

    def record(self, name: str, maximum: int) -> None:
        """Appends the largest magnitude of the accumulators of ``"H"`` or ``"dH"`` to the history; not called in evaluation.

        Call it after the pass's plan is made. Its value is a measuring run's statistic, or `accumulator_maximum` of an INT8 result's.
        """
        self.history[name] = spec.remember_maximum(self.history[name], maximum, self.scheme)

    @staticmethod
    def accumulator_maximum(statistic: int, requantization: Requantization) -> int:
        """The largest accumulator behind an INT8 result's max \\|p\\|: p is that times the mantissa, so the division is exact."""
        return statistic // requantization.mantissa

    def _maximum(self, name: str, measured: int | None) -> float:
        predicted = spec.predicted_maximum(self.history[name], self.scheme)
        if predicted is not None:
            return predicted
        if measured is None:
            raise SchemeError(f"the scale of {name} must be measured in this pass; give its accumulators' maximum")
        return float(measured)

    def _shaped(self, x: NDArray, name: str, shape: tuple[int, ...]) -> Float32:
        if x.shape != shape:
            raise SchemeError(f"{name} must have the shape {shape}, not {x.shape}")
        return finite32(x, name)

    def forward_operands(
        self, x: NDArray | Quantized, a: NDArray, b: NDArray, step: int, call: int = 0, alpha: float | None = None
    ) -> ForwardOperands:
        """Quantizes X [T, I], A [r, I] and B [O, r] (float32 or float16); X may be quantized already, as this scheme does it.

        ``alpha``: of this pass, by default the layer's.
        """
        alpha = self.alpha if alpha is None else alpha
        if not alpha > 0:
            raise SchemeError(f"alpha must be positive, not {alpha!r}")
        O, I = self.weight.q.shape
        T = len(x.q) if isinstance(x, Quantized) else len(x)
        if T > K_LIMIT:
            raise SchemeError(f"X must have at most {K_LIMIT} tokens, whose gradients sum exactly, not {T}; use smaller batches")
        if not isinstance(x, Quantized):
            x = rotate(self._shaped(x, "X", (T, I)), self.block, name="X")
            x = Quantized(*quantize(x, stream=self.stream(Role.X, step, call)))
        elif x.q.shape != (T, I):
            raise SchemeError(f"X must have the shape {(T, I)}, not {x.q.shape}")
        a = rotate(self._shaped(a, "A", (len(a), I)), self.block, name="A")
        b = self._shaped(b, "B", (O, len(a)))
        aq, sa, a_clipped = quantize(a, stream=self.stream(Role.A, step, call))
        with np.errstate(over="ignore"):  # finite32 refuses what overflows, with its place
            b_units = finite32(b / self.weight.scale[:, None], "B / sw")
            a_units = finite32(a / np.float32(sa), "A / sa")
        bq, exponent, b_clipped = quantize_power(b_units, stream=self.stream(Role.B, step, call))
        clipped = {"X": x.clipped, "A": a_clipped, "B": b_clipped}
        return ForwardOperands(step, call, alpha, x.q, x.scale, aq, sa, a_units, bq, exponent, b_units, clipped)

    def forward_bounds(self, operands: ForwardOperands) -> tuple[DeviceShift, Int8]:
        """Where the device sets H's scale: its bounds, and the copy of B that Y reads."""
        bounds = self._device_shift("H", operands)
        return bounds, self._b_chain(operands, bounds.drop)

    def _b_chain(self, operands: ForwardOperands, drop: int) -> Int8:
        if not drop:
            return operands.bq
        stream = self.stream(Role.B_CHAIN, operands.step, operands.call)
        return quantize_power(operands.b_units, operands.b + drop, stream)[0]

    def forward_plan(self, operands: ForwardOperands, measured: int | None = None) -> ForwardPlan:
        """Scales and chain of a forward pass.

        ``measured``: largest magnitude of the accumulators Xq Aq^T, needed where `must_measure("H")`; ignored elsewhere.
        """
        I = self.weight.q.shape[1]
        r, step, call = len(operands.aq), operands.step, operands.call
        s = operands.alpha / r
        if self.on_device:
            bounds = self._device_shift("H", operands)
            t = self._t("H", bounds, measured)
            h, chain, ratio = bounds.exponent(t), bounds.chain(t), bounds.requantization(t)
        else:
            h = spec.h_exponent(s, operands.sa, self._maximum("H", measured))
            chain = spec.chain(I, r, h + operands.b)
            ratio = spec.adapter_requantization(s, operands.sa, h)
        b_chain = self._b_chain(operands, chain.drop)
        y_scale = np.ldexp(operands.sx * self.weight.scale.astype(np.float64), chain.exponent)
        return ForwardPlan(operands, h, ratio, self.stream(Role.H, step, call), chain, b_chain, y_scale)

    def backward_operands(self, forward: ForwardPlan, dy: NDArray) -> BackwardOperands:
        """Quantizes dY [T, O] (float32 or float16)."""
        dy = self._shaped(dy, "dY", (len(forward.operands.xq), len(self.weight.q)))
        with np.errstate(over="ignore"):
            weighted = finite32(dy * self.weight.scale, "dY * sw")
        dyq, g, clipped = quantize(weighted, stream=self.stream(Role.DY, forward.operands.step, forward.operands.call))
        return BackwardOperands(forward, dyq, g, clipped)

    @staticmethod
    def _t(name: str, bounds: DeviceShift, measured: int | None) -> int:
        if measured is None:
            raise SchemeError(f"the scale of {name} was set by the device; give its accumulators' maximum")
        return least_shift(measured * bounds.mantissa, bounds.low, bounds.high)

    def backward_bounds(self, operands: BackwardOperands, *, need_dx: bool = True) -> tuple[DeviceShift, Int8 | None]:
        """Where the device sets dH's scale: its bounds, and the copy of A that dX reads (None without dX)."""
        forward = operands.forward.operands
        bounds = self._device_shift("dH", forward)
        return bounds, self._a_chain(forward, bounds.drop) if need_dx else None

    def _a_chain(self, operands: ForwardOperands, drop: int) -> Int8:
        if not drop:
            return operands.aq
        return quantize_power(operands.a_units, drop, self.stream(Role.A_CHAIN, operands.step, operands.call))[0]

    def backward_plan(self, operands: BackwardOperands, measured: int | None = None, *, need_dx: bool = True) -> BackwardPlan:
        """Scales and chain of a backward pass.

        ``measured``: largest magnitude of the accumulators dYq Bq, needed where `must_measure("dH")`; ignored elsewhere.
        """
        forward, g = operands.forward, operands.g
        ops, r = forward.operands, len(forward.operands.aq)
        s = ops.alpha / r
        chain, a_chain, dx_scale = None, None, 0.0
        if self.on_device:
            bounds = self._device_shift("dH", ops)
            t = self._t("dH", bounds, measured)
            c, ratio = bounds.exponent(t), bounds.requantization(t)
            h_prime = ops.b + c
            chain = bounds.chain(t) if need_dx else None
        else:
            c = spec.h_exponent(s, ops.sa, self._maximum("dH", measured))
            h_prime = ops.b + c
            ratio = spec.adapter_requantization(s, ops.sa, c)
            chain = spec.chain(len(self.weight.q), r, h_prime) if need_dx else None
        if chain:
            a_chain, dx_scale = self._a_chain(ops, chain.drop), math.ldexp(g, chain.exponent)
        return BackwardPlan(
            operands,
            h_prime,
            ratio,
            self.stream(Role.DH, ops.step, ops.call),
            chain,
            a_chain,
            dx_scale,
            np.array([spec.db_scale(g, ops.sx, float(sw), forward.h) for sw in self.weight.scale]),
            spec.da_scale(g, ops.sx, ops.sa, h_prime),
            self.block,
        )
