"""Layers for the torch reference: seeded float tensors of one step, and schemes."""

import dataclasses

import torch
from torch import Tensor

from loralith.spec.scheme import FQT
from loralith.verif.fqt import Backward, Forward, LoraLayer
from loralith.verif.torch_quantize import quantize_weight

FP32 = 2.0**-23
"""Relative allowance for binary32 operations beside quantization (x * sw, x / scale, results as FP32)."""


MANTISSA = 2.0**-16
"""Relative error of a ratio as a 16-bit mantissa, with room for FP32 scales."""


@dataclasses.dataclass
class Case:
    """Float tensors of one layer step, seeded: X [T, I], W [O, I], A [r, I], B [O, r], dY [T, O]."""

    T: int = 77
    I: int = 40
    O: int = 24
    r: int = 4
    alpha: float = 6.0
    b_size: float = 0.02
    seed: int = 0

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        self.x = normal(self.T, self.I)
        self.w = normal(self.O, self.I) * 0.05 * torch.exp(normal(self.O, 1) / 2)
        self.a = normal(self.r, self.I) * 0.1
        self.b = normal(self.O, self.r) * self.b_size
        self.dy = normal(self.T, self.O) * 1e-3

    def layer(self, scheme: FQT) -> LoraLayer:
        return LoraLayer(quantize_weight(self.w, scheme), self.alpha, scheme, layer=3)

    def run(self, layer: LoraLayer, step: int = 5) -> tuple[Forward, Backward]:
        forward = layer.forward(self.x, self.a, self.b, step=step)
        return forward, layer.backward(forward, self.dy, self.a)


CASES = [Case(T=T, r=r, seed=T + r) for T in (1, 64, 77) for r in (1, 3, 4, 16)]


SCHEMES = {
    "default": FQT(),
    "nearest": FQT(stochastic=()),
    "tensor": FQT(weight_scales="tensor"),
    "int4 weights": FQT(weight_bits=4),
    "stochastic": FQT(stochastic=("X", "dY", "H", "dH", "A", "B")),
    "rotated": FQT(rotation=64),
    "power of two": FQT(power_of_two=True),
    "block": FQT(weight_scales="block", weight_block=8),
    "int4": FQT(weight_bits=4, activation_bits=4, gradient_bits=4),
    "int4 block": FQT(weight_bits=4, activation_bits=4, gradient_bits=4, weight_scales="block", power_of_two=True, stochastic=()),
}
