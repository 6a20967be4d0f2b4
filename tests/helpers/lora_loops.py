"""A small LoRA model, and what tests of plain loops over it share."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from loralith.spec.scheme import FQT


class Small(nn.Module):
    """Two linear layers that LoRA trains, the first with a bias, and a frozen one between them."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(12, 20)
        self.middle = nn.Linear(20, 20)
        self.second = nn.Linear(20, 8, bias=False)

    def forward(self, x):
        return self.second(torch.relu(self.middle(torch.relu(self.first(x)))))


def peft_model(**settings):
    torch.manual_seed(0)
    model = get_peft_model(Small(), LoraConfig(**{"r": 3, "lora_alpha": 6, "target_modules": ["first", "second"], **settings}))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)
    return model


def inputs(seed=0, rows=5):
    return torch.randn(rows, 12, generator=torch.Generator().manual_seed(seed))


def trained(model):
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def gradients(model, x=None, through=None):
    """Gradients of one loss by name; ``through`` in place of the model's call."""
    x = inputs() if x is None else x
    parameters = trained(model)
    loss = (model if through is None else through)(x).square().sum()
    return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))


ALL_STOCHASTIC = FQT(stochastic=("X", "dY", "H", "dH", "A", "B"), seed=3)
SCHEMES = [
    pytest.param(FQT(), id="default"),
    pytest.param(ALL_STOCHASTIC, id="stochastic"),
    pytest.param(FQT(adapter_scales="delayed", history=3), id="delayed"),
]


def equal(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
