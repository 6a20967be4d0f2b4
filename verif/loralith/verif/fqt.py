"""The bit-exact reference of one LoRA layer's training step, in torch and integers.

Written from docs/numerics.md; it sees no command list, no tiles and no folds. Every integer here is what the accelerator
must produce, and every float what the host must make of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from loralith.spec import scales as spec
from loralith.spec.device_shift import device_shift, expected_maximum
from loralith.spec.numerics import ACC_MAX, ACC_MIN, K_LIMIT, Requantization, least_shift
from loralith.spec.scales import Chain
from loralith.spec.scheme import FQT, Role, SchemeError, hash_words

from .torch_quantize import QuantizedWeight, Stream, as_float32, matmul, quantize, quantize_power, requantize, rotate_blocks, rotated

__all__ = ["Backward", "Forward", "LoraLayer"]

STATE_VERSION = 1


@dataclass(frozen=True)
class Forward:
    """One forward pass: every quantized tensor and scale, as `LoraLayer.backward` and comparisons need them.

    Attributes, shapes in the words of docs/numerics.md:
        step, call: where in training this pass stands (they select the random numbers).
        alpha: this pass's, forward and backward.
        xq int8 [T, I], sx: X = sx * xq.
        aq int8 [r, I], sa: A = sa * aq.
        bq int8 [O, r], b: B[o] = 2**b * sw[o] * bq[o]; the copy that dH reads.
        b_chain int8 [O, r]: the copy that Y reads, coarser by 2**chain.drop.
        h_acc int32 [T, r]: Xq Aq^T. h_max: its largest magnitude.
        requantization, hq int8 [T, r], h: H = 2**h * sx / s * hq.
        chain: how Y's two segments share the accumulator.
        y_acc int32 [T, O], y_scale float64 [O]: Y = y_scale * y_acc.
        y float32 [T, O].
        measured: the exponent of H came from this pass's own maximum.
        saturated: values clipped, by tensor name.
    """

    step: int
    call: int
    alpha: float
    xq: Tensor
    sx: float
    aq: Tensor
    sa: float
    bq: Tensor
    b: int
    b_chain: Tensor
    h_acc: Tensor
    h_max: int
    requantization: Requantization
    hq: Tensor
    h: int
    chain: Chain
    y_acc: Tensor
    y_scale: Tensor
    y: Tensor
    measured: bool
    saturated: Mapping[str, int]


@dataclass(frozen=True)
class Backward:
    """One backward pass.

    Attributes:
        dyq int8 [T, O], g: dY[t, o] * sw[o] = g * dyq.
        dh_acc int32 [T, r]: dYq Bq, of scale s * g * 2**b. dh_max: its largest magnitude.
        requantization, dhq int8 [T, r], h_prime: dH = 2**h_prime * g / sa * dhq.
        a_chain int8 [r, I]: the copy of A that dX reads, coarser by 2**chain.drop; None without dX.
        chain, dx_acc int32 [T, I], dx_scale (float64), dx float32 [T, I]: dX = dx_scale * dx_acc; None where dX was not asked for.
        db_acc int64 [O, r], db_scale float64 [O], db float32 [O, r]: gradient of B. Every value is in the INT32 range while
            T <= 131071; beyond, the accelerator makes parts over tokens that the host adds.
        da_acc int64 [r, I], da_scale (float64), da float32 [r, I]: gradient of A (the accelerator computes the transpose, [I, r]).
        measured: the exponent of dH came from this pass's own maximum.
        saturated: values clipped, by tensor name.
    """

    dyq: Tensor
    g: float
    dh_acc: Tensor
    dh_max: int
    requantization: Requantization
    dhq: Tensor
    h_prime: int
    a_chain: Tensor | None
    chain: Chain | None
    dx_acc: Tensor | None
    dx_scale: float
    dx: Tensor | None
    db_acc: Tensor
    db_scale: Tensor
    db: Tensor
    da_acc: Tensor
    da_scale: float
    da: Tensor
    measured: bool
    saturated: Mapping[str, int]


@dataclass
class LoraLayer:
    """A linear layer with frozen quantized W and a LoRA adapter, trained in integers.

    Attributes:
        weight: q int8 [O, I], scale float32 [O] (`torch_quantize.quantize_weight`, rotated where the scheme rotates).
        alpha: lora_alpha, positive; s = alpha / r with r from A.
        scheme: what is quantized how.
        layer: the layer's place in the host's list (0..2**20-1), part of the random numbers' key.
        history: maxima of the accumulators of H and dH in earlier passes, newest last; the whole state.

    Errors: SchemeError for shapes that do not fit, values that are not finite, and what `scales.chain` refuses.
    """

    weight: QuantizedWeight
    alpha: float
    scheme: FQT
    layer: int = 0
    history: dict[str, list[int]] = field(default_factory=lambda: {"H": [], "dH": []})

    def __post_init__(self) -> None:
        if not self.alpha > 0:
            raise SchemeError(f"alpha must be positive, not {self.alpha!r}")
        if self.weight.q.dtype != torch.int8 or self.weight.q.dim() != 2 or self.weight.scale.shape != self.weight.q.shape[:1]:
            raise SchemeError(f"W must be int8 [O, I] with O scales, not {self.weight.q.dtype} {tuple(self.weight.q.shape)}")
        self.block = spec.rotation_block(self.scheme.rotation, self.weight.q.shape[1], required=True)
        self._w = self.weight.integers().double()
        self._sw, self._sw_list = self.weight.scale.double(), self.weight.scale.tolist()

    def state_dict(self) -> dict[str, object]:
        """The state as JSON values; `load_state_dict` on an equal layer continues bit for bit."""
        return {"version": STATE_VERSION, **{name: list(maxima) for name, maxima in self.history.items()}}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Takes over `state_dict`'s value. Raises SchemeError for another version or other names."""
        if state.get("version") != STATE_VERSION or set(state) != {"version", "H", "dH"}:
            raise SchemeError(f"the state must be of version {STATE_VERSION} with H and dH, not {dict(state)!r}")
        self.history = {name: [int(m) for m in state[name]] for name in ("H", "dH")}  # type: ignore[attr-defined]

    def _stream(self, step: int, role: Role, call: int) -> Stream | None:
        if not self.scheme.is_stochastic(role):
            return None
        return Stream(*hash_words(self.scheme.seed, step, self.layer, role, call))

    def _maximum(self, name: str, acc: Tensor, record: bool) -> tuple[int, float, bool]:
        """(largest magnitude of the accumulators, what the exponent is made from, measured)."""
        own = int(acc.abs().max())
        predicted = spec.predicted_maximum(self.history[name], self.scheme)
        if record:
            self.history[name] = spec.remember_maximum(self.history[name], own, self.scheme)
        return own, (float(own) if predicted is None else predicted), predicted is None

    def forward(
        self, x: Tensor, a: Tensor, b: Tensor, *, step: int = 0, call: int = 0, alpha: float | None = None, record: bool = True
    ) -> Forward:
        """Y = X W^T + s (X A^T) B^T.

        Parameters: ``x`` [T, I], ``a`` [r, I], ``b`` [O, r], float32 (or float16, bfloat16); ``step`` 0..2**32-1; ``call``, see
        `scheme.hash_words`; ``alpha`` of this pass, by default the layer's; ``record`` False leaves the history as it is (evaluation).
        """
        O, I = self.weight.q.shape
        qmax, power = self.scheme.activation_qmax, self.scheme.power_of_two
        x, a, b = as_float32(x, "X"), as_float32(a, "A"), as_float32(b, "B")
        r = a.shape[0]
        for name, value, shape in (("X", x, (x.shape[0], I)), ("A", a, (r, I)), ("B", b, (O, r))):
            if tuple(value.shape) != shape:
                raise SchemeError(f"{name} must have the shape {shape}, not {tuple(value.shape)}")
        alpha = self.alpha if alpha is None else alpha
        s = alpha / r
        x, a = rotated(x, self.block, "X"), rotated(a, self.block, "A")

        xq, sx, x_clipped = quantize(x, qmax, self._stream(step, Role.X, call), power)
        aq, sa, a_clipped = quantize(a, qmax, self._stream(step, Role.A, call), power)
        v = as_float32(b / self.weight.scale[:, None], "B / sw")
        bq, b_exponent, b_clipped = quantize_power(v, stream=self._stream(step, Role.B, call), qmax=qmax)

        h_acc = _int32(matmul(xq, aq.T))
        before = self.history["H"]
        h_max, maximum, measured = self._maximum("H", h_acc, record)
        if self.scheme.adapter_scales == "device":
            bounds = device_shift(s, sa, expected_maximum(before, I), I, r, b_exponent if bq.any() else None)
            t = least_shift(h_max * bounds.mantissa, bounds.low, bounds.high)
            h, ratio, chain = bounds.exponent(t), bounds.requantization(t), bounds.chain(t)
        else:
            h = spec.h_exponent(s, sa, maximum, qmax)
            ratio = spec.adapter_requantization(s, sa, h)
            chain = spec.chain(I << self.scheme.weight_extra_bits, r, h + b_exponent)
        hq, _, h_clipped = requantize(h_acc, ratio, self._stream(step, Role.H, call), qmax)

        b_chain = bq
        if chain.drop:
            b_chain, _, _ = quantize_power(v, b_exponent + chain.drop, self._stream(step, Role.B_CHAIN, call), qmax)
        y_acc = _chained(matmul(xq, self._w.T), matmul(hq, b_chain.T), chain)
        y_scale = self._sw * sx * 2.0**chain.exponent
        return Forward(
            step=step,
            call=call,
            alpha=alpha,
            xq=xq,
            sx=sx,
            aq=aq,
            sa=sa,
            bq=bq,
            b=b_exponent,
            b_chain=b_chain,
            h_acc=h_acc,
            h_max=h_max,
            requantization=ratio,
            hq=hq,
            h=h,
            chain=chain,
            y_acc=y_acc,
            y_scale=y_scale,
            y=(y_acc.double() * y_scale).float(),
            measured=measured,
            saturated={"X": x_clipped, "A": a_clipped, "B": b_clipped, "H": h_clipped},
        )

    def backward(self, saved: Forward, dy: Tensor, a: Tensor, *, need_dx: bool = True, record: bool = True) -> Backward:
        """dH = s dY B, dB = s dY^T H, dA = dH^T X, dX = dY W + dH A.

        Parameters: ``saved``, the forward pass; ``dy`` [T, O]; ``a``, the same A as in that pass (dX may need a coarser copy of it).
        """
        O = self.weight.q.shape[0]
        T, r = saved.hq.shape
        dy, a = as_float32(dy, "dY"), as_float32(a, "A")
        if tuple(dy.shape) != (T, O):
            raise SchemeError(f"dY must have the shape {(T, O)}, not {tuple(dy.shape)}")
        s, step, call = saved.alpha / r, saved.step, saved.call
        qmax = self.scheme.gradient_qmax

        weighted = as_float32(dy * self.weight.scale, "dY * sw")
        dyq, g, dy_clipped = quantize(weighted, qmax, self._stream(step, Role.DY, call), self.scheme.power_of_two)
        dh_acc = _int32(matmul(dyq, saved.bq))
        before = self.history["dH"]
        dh_max, maximum, measured = self._maximum("dH", dh_acc, record)
        bounds = None
        if self.scheme.adapter_scales == "device":
            bounds = device_shift(s, saved.sa, expected_maximum(before, O), O, r, saved.b if saved.bq.any() else None)
            t = least_shift(dh_max * bounds.mantissa, bounds.low, bounds.high)
            c, ratio = bounds.exponent(t), bounds.requantization(t)
        else:
            c = spec.h_exponent(s, saved.sa, maximum, qmax)
            ratio = spec.adapter_requantization(s, saved.sa, c)
        h_prime = saved.b + c
        dhq, _, dh_clipped = requantize(dh_acc, ratio, self._stream(step, Role.DH, call), qmax)

        chain = a_chain = dx_acc = dx = None
        dx_scale = 0.0
        if need_dx:
            chain = bounds.chain(t) if bounds else spec.chain(O << self.scheme.weight_extra_bits, r, h_prime)
            a_chain = saved.aq
            if chain.drop:
                units = as_float32(rotated(a, self.block, "A") / torch.tensor(saved.sa, dtype=torch.float32), "A / sa")
                a_chain, _, _ = quantize_power(units, chain.drop, self._stream(step, Role.A_CHAIN, call), self.scheme.activation_qmax)
            dx_acc = _chained(matmul(dyq, self._w), matmul(dhq, a_chain), chain)
            dx_scale = math.ldexp(g, chain.exponent)
            dx = rotate_blocks((dx_acc.double() * dx_scale).float(), self.block)

        db_acc = matmul(dyq.T, saved.hq)
        db_scale = torch.tensor([spec.db_scale(g, saved.sx, sw, saved.h) for sw in self._sw_list], dtype=torch.float64)
        da_acc = matmul(dhq.T, saved.xq)
        da_scale = spec.da_scale(g, saved.sx, saved.sa, h_prime)
        return Backward(
            dyq=dyq,
            g=g,
            dh_acc=dh_acc,
            dh_max=dh_max,
            requantization=ratio,
            dhq=dhq,
            h_prime=h_prime,
            a_chain=a_chain,
            chain=chain,
            dx_acc=dx_acc,
            dx_scale=dx_scale,
            dx=dx,
            db_acc=db_acc,
            db_scale=db_scale,
            db=(db_acc.double() * db_scale[:, None]).float(),
            da_acc=da_acc,
            da_scale=da_scale,
            da=rotate_blocks((da_acc.double() * da_scale).float(), self.block),
            measured=measured,
            saturated={"dY": dy_clipped, "dH": dh_clipped},
        )


def _int32(acc: Tensor) -> Tensor:
    low, high = torch.aminmax(acc)
    if int(high) > ACC_MAX or int(low) < ACC_MIN:
        raise SchemeError(f"a sum of more than {K_LIMIT} products left the INT32 range; split the reduction into parts")
    return acc.to(torch.int32)


def _chained(base: Tensor, adapter: Tensor, chain: Chain) -> Tensor:
    first, second = (base, adapter) if chain.base_first else (adapter, base)
    return _int32((first << chain.shift) + second)
