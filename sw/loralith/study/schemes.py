"""The schemes that a study compares, by name. Each differs from `default` in what its text says and in nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from loralith.errors import LoralithError
from loralith.spec.scheme import FQT
from loralith.spec.step import StepScheme

FP32 = "fp32"
DEFAULT = "default"
STEP = "step"


@dataclass(frozen=True)
class Scheme:
    """text: what is different, for a table. fqt: of LoRA layers alone, or of a whole step; seed 0; None for FP32."""

    text: str
    fqt: FQT | StepScheme | None

    def seeded(self, seed: int) -> FQT | StepScheme | None:
        """The scheme with the rounding of a run: its seed is the run's, as in `loralith finetune`."""
        return None if self.fqt is None else replace(self.fqt, seed=seed)


EVERYTHING = ("X", "dY", "H", "dH", "A", "B")

SCHEMES: Mapping[str, Scheme] = {
    FP32: Scheme("plain torch", None),
    DEFAULT: Scheme("INT8, a scale per row of W, gradients rounded stochastically, measured H and dH scales", FQT()),
    "nearest": Scheme("gradients rounded to nearest", FQT(stochastic=())),
    "stochastic-dy": Scheme("dY rounded stochastically, dH to nearest", FQT(stochastic=("dY",))),
    "stochastic-all": Scheme("every tensor but W rounded stochastically", FQT(stochastic=EVERYTHING)),
    "tensor-weights": Scheme("one scale for all of W", FQT(weight_scales="tensor")),
    "block-weights": Scheme("a power-of-two scale per 4 x 4 square of W", FQT(weight_scales="block", weight_block=4)),
    "delayed": Scheme("H and dH scales from earlier steps", FQT(adapter_scales="delayed")),
    "device": Scheme("H and dH scales that the device sets within the pass, without the host", FQT(adapter_scales="device")),
    "power-of-two": Scheme("scales of X, A, W and dY rounded up to powers of two", FQT(power_of_two=True)),
    "rotated": Scheme("X, W and A rotated in blocks of up to 256 channels", FQT(rotation=256)),
    "int4-weights": Scheme("W of 4 bits", FQT(weight_bits=4)),
    "int4-weights-tensor": Scheme("W of 4 bits, one scale for all of it", FQT(weight_bits=4, weight_scales="tensor")),
    "int4-weights-block": Scheme(
        "W of 4 bits, a power-of-two scale per 4 x 4 square", FQT(weight_bits=4, weight_scales="block", weight_block=4)
    ),
    "int4": Scheme("everything of 4 bits", FQT(weight_bits=4, activation_bits=4, gradient_bits=4)),
    "int4-nearest": Scheme(
        "everything of 4 bits, gradients rounded to nearest", FQT(weight_bits=4, activation_bits=4, gradient_bits=4, stochastic=())
    ),
    STEP: Scheme("the whole step on the device: 16 fraction bits, bfloat16 between operators", StepScheme()),
    "step-p10": Scheme("the whole step, 10 fraction bits", StepScheme(fraction_bits=10, optimizer_bits=10)),
    "step-p23": Scheme(
        "the whole step, 23 fraction bits, which also lie in memory", StepScheme(fraction_bits=23, storage="vector", optimizer_bits=23)
    ),
    "step-int16": Scheme("the whole step, 16-bit integers with a scale between operators", StepScheme(storage="int16")),
    "step-e6m9": Scheme("the whole step, 16-bit floating point with 9 fraction bits between operators", StepScheme(storage="e6m9")),
    "step-batch8": Scheme("the whole step, the noisy batch in one INT8 word", StepScheme(batch_words=1)),
    "step-update23": Scheme("the whole step, A, B and moments of 23 fraction bits", StepScheme(optimizer_bits=23)),
    "step-nearest": Scheme("the whole step, gradients rounded to nearest", StepScheme(stochastic=False)),
}


def scheme_named(name: str) -> Scheme:
    """Raises LoralithError that lists the names for one that is unknown."""
    if name not in SCHEMES:
        raise LoralithError(f"there is no scheme {name!r}; there are {', '.join(SCHEMES)}")
    return SCHEMES[name]
