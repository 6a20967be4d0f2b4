"""`unmapped` names every module that multiplies in torch, and no other: what torch itself counts."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from helpers.tiny_transformers import flux2, llama, sana, z_image
from loralith.mapping.select import select


def unet():
    model = UNet2DConditionModel(
        sample_size=4,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=6,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    return model, lambda: model(torch.randn(1, 1, 4, 4), torch.tensor([3]), torch.randn(1, 3, 6))


class Own(nn.Module):
    """Multiplies by a parameter, in a method of its own; its `position` multiplies nothing."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))
        self.position = nn.Parameter(torch.randn(3, 4))

    def forward(self, x):
        return self.turned(x + self.position)

    def turned(self, x):
        return x @ self.weight


class Holder(nn.Module):
    """Parameters and children; exchanges dimensions, and multiplies nothing."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(6, 4))
        self.words = nn.Embedding(5, 4)
        self.own = Own()
        self.line = nn.Conv1d(3, 3, 1)
        self.memory = nn.GRU(4, 4, batch_first=True)
        self.heads = nn.MultiheadAttention(4, 2, batch_first=True)
        self.end = nn.Linear(4, 4)

    def forward(self, x):
        x = self.line(self.own(x + self.table[:3] + self.words(torch.arange(3))))
        x, _ = self.memory(torch.einsum("btc->bct", x).transpose(1, 2))
        x, _ = self.heads(x, x, x)
        return self.end(x * 2)


def holder():
    model = Holder()
    return model, lambda: model(torch.randn(2, 3, 4))


STAYS = {
    llama: {},
    flux2: {},
    z_image: {},
    sana: {"transformer_blocks.0.attn1": "SanaLinearAttnProcessor2_0"},
    unet: {},
    holder: {"own": "Own", "memory": "GRU", "heads": "MultiheadAttention", "heads.out_proj": "NonDynamicallyQuantizable"},
}


@pytest.mark.parametrize("make", STAYS)
def test_what_stays_in_torch_is_listed(make):
    model, run = make()
    model.requires_grad_(False)
    choices = {choice.name: choice for choice in select(model, "all")}
    stays = {name: choice.reason for name, choice in choices.items() if choice.reason}
    assert stays.keys() == STAYS[make].keys()
    assert all(kind in stays[name] for name, kind in STAYS[make].items())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    root = type(model).__name__
    flops = {name.removeprefix(root).removeprefix("."): sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    del flops["Global"]
    own = dict(flops)
    for name in flops:
        above = [outer for outer in flops if name and outer != name and (not outer or name.startswith(f"{outer}."))]
        if above:
            own[max(above, key=len)] -= flops[name]
    multiply = {name for name, count in own.items() if count}
    assert multiply <= choices.keys()
    assert len(multiply) > 3
    assert sum(own.values()) == counter.get_total_flops()
