"""The model of a whole step: its operators are torch's, its products are counted right, and what it does not know is named."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from loralith.diffusion.published import find_model
from loralith.errors import LoralithError
from loralith.mapping.planning.trace import trace_model
from loralith.methods.settings import choose_targets
from loralith.spec.config import load_config
from loralith.step.cost_model import model_step
from loralith.step.operators import Operator, StepGraph, trace_step, trace_unet


def test_macs_are_torchs_own_count() -> None:
    arguments = {"targets": choose_targets("all"), "rank": 3, "batch": 2}
    assert trace_unet(find_model("small"), **arguments).macs == trace_model(find_model("small"), **arguments).macs


def test_a_strided_convolution_counts_forward_and_backward_alike() -> None:
    layer = nn.Conv2d(4, 6, 3, stride=2, padding=1).requires_grad_(False)
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    graph = trace_step(layer, lambda: functional.mse_loss(layer(x), torch.zeros(2, 6, 4, 4)))
    forward, backward = (o for o in graph.operators if o.name.startswith("convolution"))
    assert forward.macs == backward.macs == 2 * 4 * 4 * 6 * 4 * 9
    assert (forward.backward, backward.backward) == (False, True)


def test_a_product_that_fills_the_array_takes_its_steps() -> None:
    """64 x 32 results over K = 48 on 16 x 16: 8 tiles of 48 steps; INT8 operands and results of 2 bytes on a bus of 16 bytes."""
    step = model_step(StepGraph((Operator("mm", ((64, 48), (48, 32)), ((64, 32),), False),), ()), load_config("base"), rank=4)
    kind = step.kinds["linear"]
    assert (kind.array, kind.macs, kind.cycles) == (8 * 48, 64 * 48 * 32, 8 * 48)
    assert kind.bus == max((64 * 48 + 48 * 32) // 16, 2 * 64 * 32 // 16)
    assert step.utilization == 1.0


def test_work_beside_products_takes_time_only_where_it_is_more() -> None:
    product = Operator("mm", ((64, 48), (48, 32)), ((64, 32),), False)
    few, many = (Operator("silu", ((n,),), ((n,),), False) for n in (16 * 10, 16 * 1000))
    assert model_step(StepGraph((product, few), ()), load_config("base"), 4).cycles == 384
    assert model_step(StepGraph((product, many), ()), load_config("base"), 4).cycles == 2 * 1000
    assert model_step(StepGraph((product, many), ()), load_config("base"), 4, lanes=8).cycles == 4 * 1000


def test_the_scores_of_attention_count_three_times_and_are_useful_once() -> None:
    scores = Operator("baddbmm", ((2, 32, 32), (2, 32, 16), (2, 16, 32)), ((2, 32, 32),), False)
    kind = model_step(StepGraph((scores,), ()), load_config("base"), 4).kinds["attention"]
    assert kind.array == 3 * 2 * 4 * 16
    assert kind.macs == 2 * 32 * 32 * 16


def test_an_operator_that_it_does_not_know_is_named() -> None:
    with pytest.raises(LoralithError, match="no operator 'tanh'"):
        model_step(StepGraph((Operator("tanh", ((4,),), ((4,),), False),), ()), load_config("base"), 4)
