"""Which blocks of a U-Net can be left out behind one boundary tensor.

Only whole rings can: mid_block, then the innermost down block together with the innermost up block, which alone reads its skip
connections, and so on outwards. The boundary tensor is the output of the last block left out. The downsampler of the outermost kept ring
feeds only what is left out, so it goes too.
"""

from __future__ import annotations

from dataclasses import dataclass

from diffusers import UNet2DConditionModel

from loralith.methods.options import SettingsError

__all__ = ["Hollow", "choose"]


@dataclass(frozen=True)
class Hollow:
    """``depth`` rings around mid_block; ``names`` of the blocks left out; ``tap``, the block whose output is the boundary tensor;
    ``prefixes`` of every module that goes with them; ``share`` of the U-Net's parameters."""

    depth: int
    names: tuple[str, ...]
    tap: str
    prefixes: tuple[str, ...]
    share: float

    def holds(self, name: str) -> bool:
        """Whether the module or parameter ``name`` is left out."""
        return name.startswith(tuple(f"{prefix}." for prefix in self.prefixes)) or name in self.prefixes


def rings(unet: UNet2DConditionModel) -> list[Hollow]:
    """All that can be left out, the smallest first; at least the outermost ring stays."""
    count = len(unet.down_blocks)
    total = sum(parameter.numel() for parameter in unet.parameters())
    found = []
    for depth in range(count):
        downs = tuple(f"down_blocks.{i}" for i in range(count - depth, count))
        ups = tuple(f"up_blocks.{i}" for i in range(depth))
        names = (*downs, "mid_block", *ups)
        prefixes = names if depth == 0 else (*names, f"down_blocks.{count - depth - 1}.downsamplers")
        hollow = Hollow(depth, names, names[-1], prefixes, 0.0)
        own = sum(parameter.numel() for name, parameter in unet.named_parameters() if hollow.holds(name))
        found.append(Hollow(depth, names, names[-1], prefixes, own / total))
    return found


def choose(unet: UNet2DConditionModel, text: str) -> Hollow:
    """The part of ``unet`` that ``text`` names: blocks with commas, or the largest share of parameters that it may have (0.4).

    Raises SettingsError with what can be left out.
    """
    options = rings(unet)
    menu = "; ".join(f"{','.join(option.names)} ({option.share:.1%})" for option in options)
    try:
        share = float(text)
    except ValueError:
        wanted = {name.strip() for name in text.split(",")}
        for option in options:
            if set(option.names) == wanted:
                return option
        raise SettingsError(f"hollow {text!r} cannot be left out behind one boundary tensor; these can: {menu}") from None
    fitting = [option for option in options if option.share <= share]
    if not 0.0 < share < 1.0 or not fitting:
        raise SettingsError(
            f"hollow must be a share of the parameters from {options[0].share:.3f} to below 1, not {text}; parts are {menu}"
        )
    return fitting[-1]
