"""INT8 base weights from a file, in place of those that `attach` would quantize."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from loralith.formats.convrot_file import ConvrotWeight, read_convrot
from loralith.lora.quantize import QuantizedWeight
from loralith.lora.rotation import rotate
from loralith.spec.scales import rotation_block
from loralith.spec.scheme import FQT, SchemeError

__all__ = ["file_weight", "use_convrot"]


@dataclass(frozen=True)
class _FileWeight:
    """INT8 of a parameter's value, while ``version`` is torch's count of its changes."""

    weight: ConvrotWeight
    version: int


_FILE_WEIGHTS = WeakTensorKeyDictionary()
"""`_FileWeight` by parameter."""


def use_convrot(model: nn.Module, path: str | Path) -> list[str]:
    """Puts the quantized layers of an INT8 ConvRot file (`formats.convrot_file`) into ``model``; their names.

    Torch's weights become the file's values, rotated back, in FP32 arithmetic; `loralith.attach` with ``FQT(rotation=...)`` of the file's
    blocks puts the file's own integers and scales on the device. What the file has not quantized stays as the model has it. To be called
    before `attach`. Raises ConvrotError, before anything is changed, for what `read_convrot` refuses.
    """
    modules = {name.replace(".base_layer", ""): module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    modules = {name.removeprefix("base_model.model."): module for name, module in modules.items()}
    found = read_convrot(Path(path), {name: tuple(module.weight.shape) for name, module in modules.items()})
    for name, one in found.items():
        parameter = modules[name].weight
        values = rotate((one.q.float() * one.scale[:, None]).numpy(), one.block)
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(values))
        _FILE_WEIGHTS[parameter] = _FileWeight(one, parameter._version)
    return sorted(found)


def file_weight(parameter: Tensor, scheme: FQT) -> QuantizedWeight | None:
    """The file's integers and scales for a parameter that still has its value; None where there are none.

    Raises SchemeError for a scheme under which the layer would be rotated in other blocks, or has other bits.
    """
    given = _FILE_WEIGHTS.get(parameter)
    if given is None or parameter._version != given.version:
        return None
    block = rotation_block(scheme.rotation, parameter.shape[1])
    if block != given.weight.block:
        wanted = given.weight.block if given.weight.block > 1 else 0
        raise SchemeError(
            f"its file has blocks of {given.weight.block} channels, and rotation {scheme.rotation} makes {block}; give rotation {wanted}"
        )
    if scheme.weight_bits != 8:
        raise SchemeError(f"its file has INT8 weights; weight_bits must be 8, not {scheme.weight_bits}")
    return QuantizedWeight(given.weight.q.numpy(), given.weight.scale.numpy())
