"""Warnings where quantized training would silently go wrong. Runs on a board."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable

from loralith.spec.scheme import FQT

from .loss import COLUMNS, Loss

__all__ = ["Health", "TrainingWarning"]

SATURATION_BOUND = 0.01
"""Share of a tensor's values that may saturate before a warning. A measured scale saturates the largest value at most."""
LOSS_BOUND = 0.1
"""Share of a typical row that a quantizer may lose before a warning, and `COLUMNS` times that of a typical column. Normal values lose 1 to
2 %; products of activations up to 7 % of a row and 13 % of a column."""
COARSE_BOUND = 0.5
"""The same for W of 4 bits, and for gradients that round to nearest: a few positions often have most of a gradient."""
GRADIENTS = ("dY", "dO", "dO / rows", "dS")
WINDOW = 8
FEWEST_VALUES = 1024
PASSES = 3
"""Passes in a row without a gradient before a warning: one batch may have none."""


class TrainingWarning(UserWarning):
    """A layer that learns nothing, or loses much of a tensor; the message names the layer and the setting to change."""


class Health:
    """Watches the layers of a run and warns once for each layer and cause.

    Parameters: ``scheme``, whose settings the messages name; ``warn``, what takes a message, by default `warnings.warn` with
    TrainingWarning.

    ``losses``: what the latest pass of each layer lost of each tensor.
    """

    def __init__(self, scheme: FQT, warn: Callable[[str], None] | None = None) -> None:
        self.scheme = scheme
        self.warn = warn or (lambda message: warnings.warn(message, TrainingWarning, stacklevel=4))
        self.losses: dict[tuple[str, str], Loss] = {}
        self._shares: dict[tuple[str, str], deque[tuple[int, int]]] = {}
        self._streaks: dict[tuple[str, str], int] = {}
        self._said: set[tuple[str, str]] = set()

    def _say(self, layer: str, cause: str, message: str) -> None:
        if (layer, cause) not in self._said:
            self._said.add((layer, cause))
            self.warn(f"{layer}: {message}")

    def values(self, layer: str, tensor: str, saturated: int, count: int) -> None:
        """One pass quantized ``count`` values of ``tensor`` (X, A, B, H, dY, dH); ``saturated`` of them were clipped."""
        window = self._shares.setdefault((layer, tensor), deque(maxlen=WINDOW))
        window.append((saturated, count))
        total = sum(n for _, n in window)
        share = sum(n for n, _ in window) / total
        if total >= FEWEST_VALUES and share > SATURATION_BOUND:
            if tensor in ("H", "dH") and self.scheme.adapter_scales == "delayed":
                remedy = f"raise headroom (now {self.scheme.headroom:g}) or set adapter_scales to 'measured'"
            elif tensor in ("H", "dH") and self.scheme.adapter_scales == "device":
                remedy = "its maxima grow faster than the device's bounds allow; set adapter_scales to 'measured'"
            else:
                remedy = f"take {tensor} out of stochastic, so that its largest values round to nearest"
            self._say(layer, tensor, f"{share:.1%} of the latest values of {tensor} saturated, more than {SATURATION_BOUND:.0%}; {remedy}")

    def quantized(self, layer: str, tensor: str, loss: Loss, *, stochastic: bool = False) -> None:
        """One pass quantized ``tensor`` (X, W, A, B, dY, attention's Q, K, V, P, dO, dO / rows, dS) and lost this much of it."""
        self.losses[layer, tensor] = loss
        if stochastic and tensor in GRADIENTS:
            return  # noise of the mean zero, which steps average
        coarse = tensor in GRADIENTS or (tensor == "W" and self.scheme.weight_bits == 4)
        if loss.share > (COARSE_BOUND if coarse else LOSS_BOUND) * (COLUMNS if loss.of == "column" else 1):
            lost = (
                f"quantization loses {loss.share:.0%} of a typical {loss.of} of {tensor} (RMS {loss.rms:.3g}, in steps of {loss.step:.3g})"
            )
            self._say(layer, f"loss of {tensor}", f"{lost}: a few large values set the scale; {self._mend(tensor)}")

    def _mend(self, tensor: str) -> str:
        if tensor == "W" and self.scheme.weight_bits == 4:
            return "set weight_bits to 8, or leave the layer in torch"
        if tensor == "W" and self.scheme.weight_scales == "tensor":
            return "set weight_scales to 'channel'"
        if tensor == "W":
            return f"raise weight_scale_range (now {self.scheme.weight_scale_range}), or leave the layer in torch"
        if tensor in ("A", "B"):
            return "lower the learning rate, or clip the adapter's gradients"
        if tensor in ("X", "Q", "K", "V"):
            rotation = "set rotation to 256, " if tensor == "X" and not self.scheme.rotation else ""
            return f"{rotation}clip them before the layer, or leave the layer in torch"
        if tensor == "P":
            return "leave attention in torch"
        return "add dY to stochastic, whose rounding has the right mean, or leave the layer in torch"

    def gradients(self, layer: str, *, dy: bool, dyq: bool, b: bool, da: bool, db: bool) -> None:
        """A backward pass is done; each says whether any value was other than zero: of dY, of quantized dY and B, and of the gradients."""
        if self.scheme.adapter_scales == "delayed":
            mend_b = mend_a = f"; set adapter_scales to 'measured', or a history shorter than {self.scheme.history}"
        elif self.scheme.adapter_scales == "device":
            mend_b = mend_a = "; set adapter_scales to 'measured', whose scales have no bounds"
        else:
            mend_b, mend_a = ": H is zero; give A other values than zero", ": their product is zero; look at how B was set"
        causes = {
            "dY": (not dy, "no gradient reaches the layer: dY is zero; leave it out of the LoRA targets, or look for what cuts it off"),
            "dYq": (dy and not dyq, "dY vanishes, its values times W's scales are below the FP32 numbers; multiply the loss by a constant"),
            "dB": (dyq and not db, f"the gradient of B is zero although dY is not{mend_b}"),
            "dA": (dyq and b and not da, f"the gradient of A is zero although dY and B are not{mend_a}"),
        }
        for cause, (holds, message) in causes.items():
            streak = self._streaks.get((layer, cause), 0) + 1 if holds else 0
            self._streaks[layer, cause] = streak
            if streak >= PASSES:
                self._say(layer, cause, f"{message} ({streak} passes in a row)")
