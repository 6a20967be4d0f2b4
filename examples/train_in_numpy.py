"""A LoRA adapter trained on a device with numpy alone, as on the processor of a board, which has no torch.

    python examples/train_in_numpy.py --device verilator --config tiny --steps 40

A frozen layer W [O, I] shall behave as W + D, whose D has the rank of the adapter. Every product of the layer, forward and backward, runs
on the device in INT8; the loss, Adam and the float32 adapter stay on the host. The loss printed is of samples that are never trained on.
"""

import argparse

import numpy as np

import loralith
from loralith.lora.layer import DeviceLayer
from loralith.lora.quantize import quantize_weight
from loralith.spec.scheme import FQT

TOKENS, INPUTS, OUTPUTS, RANK, ALPHA = 32, 24, 16, 2, 4.0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="reference", help="direct, reference, verilator, serial:<port> or pynq:<bitfile>")
    parser.add_argument("--config", default="tiny", help="the device's configuration (default: tiny)")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--lr", type=float, default=0.02)
    return parser.parse_args()


class Adam:
    """Adam (Kingma and Ba, 2015) of one array, in place."""

    def __init__(self, value: np.ndarray, lr: float) -> None:
        self.value, self.lr, self.steps = value, lr, 0
        self.mean, self.square = np.zeros_like(value), np.zeros_like(value)

    def step(self, gradient: np.ndarray) -> None:
        self.steps += 1
        self.mean += 0.1 * (gradient - self.mean)
        self.square += 0.001 * (gradient**2 - self.square)
        mean, square = self.mean / (1 - 0.9**self.steps), self.square / (1 - 0.999**self.steps)
        self.value -= self.lr * mean / (np.sqrt(square) + 1e-8)


def main() -> None:
    args = parse()
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    w, wanted = normal(OUTPUTS, INPUTS), normal(OUTPUTS, RANK) @ normal(RANK, INPUTS) / INPUTS**0.5
    a, b = normal(RANK, INPUTS) / INPUTS**0.5, np.zeros((OUTPUTS, RANK), np.float32)  # B begins at zero: the layer begins as W
    target = (w + wanted).T
    held_out = normal(TOKENS, INPUTS)
    optimizers = Adam(a, args.lr), Adam(b, args.lr)

    with loralith.open_device(args.device, config=args.config) as device:
        scheme = FQT()
        layer = DeviceLayer(device, quantize_weight(w, scheme), ALPHA, RANK, scheme)

        def report(step: int) -> None:
            saved = layer.forward(held_out, a, b, step, record=False)  # a look at the layer leaves its scales as they are
            layer.release(saved)
            print(f"step {step}: loss {np.mean((saved.y - held_out @ target) ** 2):.4f}")

        report(0)
        for step in range(args.steps):
            x = normal(TOKENS, INPUTS)
            saved = layer.forward(x, a, b, step)  # X and H stay on the device for the backward pass
            dy = (2 / saved.y.size) * (saved.y - x @ target)
            gradients = layer.backward(saved, dy.astype(np.float32), need_dx=False)
            for optimizer, gradient in zip(optimizers, (gradients.da, gradients.db), strict=True):
                optimizer.step(gradient)
            if (step + 1) % 10 == 0:
                report(step + 1)
        layer.close()


if __name__ == "__main__":
    main()
