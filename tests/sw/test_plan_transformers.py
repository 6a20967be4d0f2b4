"""Plans of diffusers' transformers: each product has its row, and together they are what torch counts."""

import json

import diffusers
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from loralith.cli import main
from loralith.diffusion.published import TRANSFORMERS, Source, find_model
from loralith.errors import LoralithError
from loralith.mapping.planning.attribution import count_products
from loralith.mapping.planning.meta_models import meta_model
from loralith.mapping.planning.step_plan import plan
from loralith.mapping.planning.trace import trace_model
from loralith.spec.config import PRESETS

PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")
ONE = {"num_layers": 1}
SHORT = {
    "flux": {"num_single_layers": 1, **ONE},
    "flux2": {"num_single_layers": 1, **ONE},
    "z-image": {"n_layers": 1, "n_refiner_layers": 1},
}
"""The published widths with a block of each kind."""
IN_TORCH = {
    "sana": {"transformer_blocks.0.attn1": "SanaLinearAttnProcessor2_0"},
}
PARAMETERS = {
    "flux": 11_901_408_320,
    "flux2": 32_223_281_152,
    "sd3": 2_028_328_000,
    "sana": 1_604_462_752,
    "qwen-image": 20_430_401_088,
    "wan": 14_288_491_584,
    "ltx": 1_923_385_472,
    "z-image": 6_154_908_736,
    "pixart": 610_856_096,
}


def short(name):
    source = TRANSFORMERS[name]
    return Source(name, {**source.config, **SHORT.get(name, ONE)}, kind=source.kind)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_every_product_of_a_transformer_has_a_row(name):
    arguments = {"targets": PROJECTIONS, "rank": 4, "batch": 1}
    with meta_model(short(name), **arguments) as (_, predict), FlopCounterMode(display=False) as counter:
        predict().sum().backward()
    figures = plan(trace_model(short(name), **arguments), PRESETS["base"])
    assert figures["macs"] == counter.get_total_flops() // 2
    assert figures["macs"] == sum(layer["macs"] for layer in figures["layers"])
    assert figures["macs_elsewhere"] == 0
    stays = {layer["name"]: layer for layer in figures["layers"] if layer["where"] == "torch"}
    expected = IN_TORCH.get(name, {})
    assert stays.keys() == expected.keys()
    for layer, why in expected.items():
        assert why in stays[layer]["why"]
        assert 0 < stays[layer]["share"] < 0.1
        assert stays[layer]["shape"], "torch's names of what it multiplies"
    assert figures["share"] == pytest.approx(1 - sum(layer["share"] for layer in stays.values()))


def test_published_sizes():
    found = {}
    for name, source in TRANSFORMERS.items():
        with torch.device("meta"):
            found[name] = sum(p.numel() for p in getattr(diffusers, source.kind)(**source.config).parameters())
    assert found == PARAMETERS


class Mixed(nn.Module):
    """Layers whose input has no gradient beside others, a grouped convolution, and a product of the model itself."""

    def __init__(self):
        super().__init__()
        self.text, self.image = nn.Linear(6, 8), nn.Linear(4, 8)
        self.line = nn.Conv1d(8, 8, 3, groups=4)
        self.norm = nn.LayerNorm(8)

    def forward(self, x, text):
        k = self.text(text)
        q = self.norm(self.image(x))
        return self.line((q @ k.mT @ k).mT)


def test_products_belong_to_the_module_that_ran_them():
    torch.manual_seed(0)
    model = Mixed()
    x, text = torch.randn(1, 5, 4, requires_grad=True), torch.randn(1, 3, 6)
    found, macs = count_products(model, lambda: model(x, text).sum())
    assert (found["text"].forward, found["text"].backward) == (3 * 6 * 8, 3 * 6 * 8), "no gradient of the text"
    assert (found["image"].forward, found["image"].backward) == (5 * 4 * 8, 2 * 5 * 4 * 8)
    assert (found[""].forward, found[""].backward) == (2 * 5 * 3 * 8, 4 * 5 * 3 * 8)
    assert found["line"].forward == 3 * 8 * 2 * 3
    assert found.keys() == {"", "text", "image", "line"}
    assert macs == sum(counted.macs for counted in found.values())


def test_a_folder_of_a_transformer(tmp_path, capsys):
    folder = tmp_path / "transformer"
    folder.mkdir()
    config = {
        "num_layers": 1,
        "sample_size": 4,
        "in_channels": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "num_cross_attention_heads": 2,
    }
    config |= {"cross_attention_head_dim": 8, "cross_attention_dim": 16, "caption_channels": 8, "out_channels": 4}
    (folder / "config.json").write_text(json.dumps({"_class_name": "SanaTransformer2DModel", **config}))
    assert main(["plan", str(tmp_path), "--config", "tiny"]) == 0
    assert "since nothing maps SanaAttnProcessor" not in (shown := capsys.readouterr().out)
    assert "its processor is SanaLinearAttnProcessor2_0" in shown
    assert "conv_depth" not in shown, "on the device, as a batch of products"
    assert main(["plan", "flux", "--map", "step"]) == 2
    assert "the model must be small, sd15, sdxl, or a folder with a U-Net's config.json, not 'flux'" in capsys.readouterr().err
    with pytest.raises(LoralithError, match="is of a SanaTransformer2DModel; a UNet2DConditionModel is what"):
        find_model(str(folder))
    with pytest.raises(LoralithError, match="the SanaTransformer2DModel of odd cannot be built"):
        trace_model(
            Source("odd", {**config, "cross_attention_dim": 17}, kind="SanaTransformer2DModel"), targets=PROJECTIONS, rank=2, batch=1
        )
