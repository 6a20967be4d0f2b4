"""Base layers that bitsandbytes or torchao has quantized, frozen and under LoRA. `make test-outside` installs both."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear as LoraLinear
from torch import nn

import loralith
from loralith.mapping.select import AttachError

BASES = ("bitsandbytes INT8", "bitsandbytes INT4", "torchao INT8", "torchao INT4")


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 8)

    def forward(self, x):
        return self.third(torch.relu(self.second(torch.relu(self.first(x)))))


def quantized(kind):
    """A model whose first two layers are quantized; skipped where the library is not installed."""
    name = kind.split()[0]
    package = pytest.importorskip(name, reason=f"{name} is not installed: make test-outside")
    torch.manual_seed(0)
    model = Small().requires_grad_(False)
    if name == "torchao":
        from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig, quantize_  # pyright: ignore[reportMissingImports]

        config = Int8WeightOnlyConfig() if kind.endswith("INT8") else IntxWeightOnlyConfig(weight_dtype=torch.int4)
        quantize_(model, config, filter_fn=lambda module, path: path in ("first", "second"))
        return model
    for path in ("first", "second"):
        plain = getattr(model, path)
        if kind.endswith("INT8"):
            layer = package.nn.Linear8bitLt(64, 64, has_fp16_weights=False)
        else:
            layer = package.nn.Linear4bit(64, 64, compute_dtype=torch.float32)
        layer.load_state_dict(plain.state_dict())
        setattr(model, path, layer.to("cpu").requires_grad_(False))
    return model


def values(layer):
    """W as the library has it: its layer of an identity, without the bias."""
    eye = torch.eye(64)
    return (layer(eye) - layer.bias).T if layer.bias is not None else layer(eye).T


def plain_of(model):
    """The same model with plain layers of the same values."""
    twin = Small().requires_grad_(False)
    for path in ("first", "second", "third"):
        layer = getattr(model, path)
        getattr(twin, path).bias.copy_(layer.bias)
        getattr(twin, path).weight.copy_(values(layer) if path != "third" else layer.weight)
    return twin


def with_lora(model):
    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=4, target_modules=["first", "second"], init_lora_weights=False)
    return get_peft_model(model, config)


def results(model, x):
    x = x.clone().requires_grad_()
    y = model(x)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [y.detach(), *torch.autograd.grad(y.square().sum(), [x, *trained])]


# What the packages say when they are imported without a GPU or kernels, and PEFT of torchao's layers that cannot be merged.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("lora", [False, True], ids=["frozen", "lora"])
@pytest.mark.parametrize("kind", BASES)
def test_the_device_multiplies_the_values_of_the_library(kind, lora):
    model = quantized(kind)
    twin = plain_of(model)
    if lora:
        model, twin = with_lora(model), with_lora(twin)
    x = torch.randn(6, 64)
    with loralith.open_device("direct", config="tiny") as device:
        attached = loralith.attach(model, device, modules="all")
        assert not attached.unmapped
        got, again = results(model, x), results(model, x)
        loralith.detach(model)
        loralith.attach(twin, device, modules="all")
        want = results(twin, x)
        loralith.detach(twin)
    tolerance = {"rtol": 0.05, "atol": 0.05 * float(want[0].abs().max())}
    for one, other in zip(got, want, strict=True):
        assert torch.allclose(one, other, **tolerance) or (one - other).norm() / other.norm() < 0.05
    assert torch.equal(got[0], again[0]), "nothing is quantized anew"
    assert (got[0] - plain_of_output(model, x)).norm() / got[0].norm() < 0.05


def plain_of_output(model, x):
    """By the library itself, without a device."""
    with torch.no_grad():
        return model(x)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["bitsandbytes INT8", "torchao INT8"])
def test_integers_stay_what_they_are(kind):
    layer = quantized(kind).first
    with loralith.open_device("direct", config="tiny") as device:
        one = loralith.attach(layer, device, modules="all").layers[0]
        layout = one.product.weight.layout(device)
        on_device = layout.unpack(device.view(layout.address, layout.nbytes), "int8").reshape(64, 64)
    integers = layer.weight.qdata if "torchao" in kind else layer.weight
    # torchao's scale is largest / 127.5, of which a row's largest value is then 127 in ours
    differ = torch.from_numpy(on_device.copy()).int() - integers.int()
    assert differ.abs().max() <= 1
    assert (differ == 0).float().mean() > 0.5 if "torchao" in kind else torch.equal(differ, torch.zeros_like(differ))


class Scaled(nn.Linear):
    """Another's layer, whose weight is not what it multiplies by."""

    def forward(self, x):
        return super().forward(x) * 3


def test_a_linear_layer_of_another_kind_is_no_base():
    model = nn.ModuleDict({"first": Scaled(8, 8)}).requires_grad_(False)
    model["first"] = LoraLinear(model["first"], "default", LoraConfig(r=2), r=2, lora_alpha=2)
    with loralith.open_device("direct", config="tiny") as device:
        with pytest.raises(AttachError, match=r"first: the base layer must be torch\.nn\.Linear, or bitsandbytes' .*, not Scaled"):
            loralith.attach(model, device)
        with pytest.warns(UserWarning, match="1 LoRA layers stay in torch"), pytest.raises(AttachError, match="nothing of the model"):
            loralith.attach(model, device, unsupported="leave")
