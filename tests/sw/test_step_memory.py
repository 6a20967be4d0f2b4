"""`report memory --model`: plans of the methods' steps on a small U-Net, and what torch keeps, against counts by hand."""

import json
import math

import pytest
import torch
from torch import Tensor, nn

from helpers import tiny_unet
from loralith.cli import main
from loralith.diffusion.published import Source
from loralith.methods.options import SettingsError
from loralith.spec.graph import Op
from loralith.training.planned_memory.figures import memory_figures, memory_page
from loralith.training.planned_memory.method_plans import hollowed_plan, lora_plan, scales_plan, token_plan
from loralith.training.planned_memory.torch_memory import checkpointed_elements, saved_elements

CONFIG = tiny_unet.CONFIG | {"sample_size": 8, "block_out_channels": (16, 32), "cross_attention_dim": 16}
SOURCE = Source("test", CONFIG, 8)
LORA = {"targets": ("to_q", "to_k", "to_v", "to_out.0"), "rank": 4, "batch": 1}


class Square(nn.Module):
    """Keeps its input [4, 8] and, beside it, twice as much."""

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([x, x])  # nothing is kept for it
        return (y * y).sum(0, keepdim=True) * x  # y [8, 8], the sum [1, 8] and x


class Chain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([Square(), Square()])

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part(x)
        return x.exp().sum()  # exp keeps its result [4, 8]


def test_what_torch_keeps_is_counted_once() -> None:
    model, x = Chain(), torch.zeros(4, 8, device="meta", requires_grad=True)
    each = 64 + 8 + 32  # y, the sum, x
    assert saved_elements(model, lambda: model(x)) == 2 * each + 32
    # Inputs of both parts, what is kept outside, and one part's own: y and the sum.
    assert checkpointed_elements(model, lambda: model(x), (Square,)) == 2 * 32 + 32 + 64 + 8
    assert checkpointed_elements(model, lambda: model(x), (nn.Linear,)) == 2 * each + 32


def test_geglus_halves_are_computed_again_and_not_saved() -> None:
    """The U-Net has one transformer block in each of four places; each has one product to eight times its width."""
    plan = lora_plan(SOURCE, **LORA)
    products = [plan.graph[name] for name in plan.plan.recomputed]
    blocks = sum(node.op is Op.FROZEN and node.name.endswith("ff.net.0.proj.weight.q") for node in plan.graph.nodes.values())
    assert len(products) == blocks > 0
    for node in products:
        tokens, width = node.shape[-2:]
        assert plan.graph[str(node.inputs[0])].shape[-1] * 8 == width, (node.name, tokens, width)
    assert not [name for name in plan.plan.saved if plan.graph[name].source.startswith("split")]


def test_a_hollowed_net_has_the_weights_that_are_left_and_a_boundary_tensor() -> None:
    whole, part = lora_plan(SOURCE, **LORA), hollowed_plan(SOURCE, **LORA, hollow="mid_block")
    assert part.note.startswith("mid_block left out")
    assert f"{4 * 32 * 4 * 4:,} bytes" in part.note  # 32 channels of 4 x 4, FP32
    kept = {node.name for node in part.graph.of(Op.FROZEN)}
    left_out = [node for node in whole.graph.of(Op.FROZEN) if node.name not in kept]
    assert left_out
    assert all(node.name.startswith("mid_block.") for node in left_out)
    assert part.weight_bytes < whole.weight_bytes
    with pytest.raises(SettingsError, match="cannot be left out behind one boundary tensor"):
        hollowed_plan(SOURCE, **LORA, hollow="up_blocks.0")


def test_codes_of_four_bits_take_half_of_a_byte_each() -> None:
    eight, four = (token_plan(SOURCE, evaluations=3, weight_bits=bits, one_pass=True) for bits in (8, 4))
    codes = sum(math.prod(node.shape) for node in eight.graph.of(Op.FROZEN) if node.name.endswith(".q"))
    assert eight.weight_bytes - four.weight_bytes == codes // 2
    assert eight.plan.peak - four.plan.peak == codes // 2
    tuned = scales_plan(SOURCE, batch=1, experts=4)
    assert tuned.weight_bytes < eight.weight_bytes - codes // 2 + 4 * tuned.trained


def test_evaluations_one_after_the_other_take_less_than_in_one_pass() -> None:
    """Nothing is saved; the peak without weights is that of one evaluation and two kept predictions."""
    three, one = (token_plan(SOURCE, evaluations=3, weight_bits=8, one_pass=one_pass) for one_pass in (True, False))
    single = token_plan(SOURCE, evaluations=1, weight_bits=8, one_pass=True)
    assert one.plan.peak == single.plan.peak + 2 * 4 * 1 * 8 * 8
    assert one.plan.peak < three.plan.peak
    assert three.figures()["saved_bytes"] == 0


def test_figures_of_all_methods_and_baselines_stand_on_the_page() -> None:
    figures = memory_figures(SOURCE, **LORA)
    assert list(figures["methods"]) == ["lora", "hollowed-net", "tuneqdm", "zoodip", "zoodip-int8"]
    assert set(figures["baselines"]) == {
        *("lora_fp32_sdpa", "lora_bf16_sdpa", "lora_fp32_checkpointed", "textual_inversion_fp32", "int8_inference")
    }
    rows = figures["methods"] | figures["baselines"]
    for name, row in rows.items():
        assert row["peak_bytes"] >= row["weight_bytes"] + row["saved_bytes"], name
    fp32, checkpointed = (figures["baselines"][name]["saved_bytes"] for name in ("lora_fp32_sdpa", "lora_fp32_checkpointed"))
    assert 0 < checkpointed < fp32
    stages = figures["methods"]["hollowed-net"]["stages"]
    assert figures["methods"]["hollowed-net"]["peak_bytes"] == max(stages.values())
    text = "\n".join(memory_page(figures))
    for name in rows:
        assert f"{name} |" in text, name


@pytest.mark.parametrize("options", [["--methods", "lora"], ["--plot", "x.png"]])
def test_a_planned_step_takes_no_option_of_a_measured_one(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "memory", "--model", "sd15", *options, "--json"]) != 0
    assert "neither --plot nor --methods" in json.dumps(capsys.readouterr().err)
