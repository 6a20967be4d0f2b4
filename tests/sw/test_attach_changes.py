"""What may change after `attach` is followed in each pass, or refused by name."""

import copy
import io
import pickle

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0, SlicedAttnProcessor
from peft import LoraConfig, get_peft_model
from torch import nn

import loralith
from helpers.same_values import assert_same_values
from helpers.tiny_unet import CONFIG
from loralith.mapping.select import AttachError
from loralith.training.verification import ReferenceObserver


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(12, 20)
        self.middle = nn.Linear(20, 20)
        self.second = nn.Linear(20, 8, bias=False)

    def forward(self, x):
        return self.second(torch.tanh(self.middle(torch.tanh(self.first(x)))))


SETTINGS = {"r": 3, "lora_alpha": 6, "target_modules": ["first", "second"]}


def peft_model():
    torch.manual_seed(0)
    return filled(get_peft_model(Small(), LoraConfig(**SETTINGS)))


def filled(model):
    """With B so large that the adapter is a good part of the output."""
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)
    return model


def x():
    return torch.randn(6, 12, generator=torch.Generator().manual_seed(1))


def results(model):
    """Output, and the gradients of input and adapters: zeros where there is none, by name."""
    inputs = x().requires_grad_()
    y = model(inputs)
    y.square().sum().backward()
    found = {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters() if "lora_" in name}
    for parameter in model.parameters():
        parameter.grad = None
    return {"y": y.detach(), "dX": inputs.grad, **found}


def close(one, two, bound=0.99):
    """Whether they differ by quantization alone."""
    one, two = one.flatten().double(), two.flatten().double()
    if not two.any():
        return not one.any()
    return torch.nn.functional.cosine_similarity(one, two, dim=0) > bound and abs(one.norm() / two.norm() - 1) < 0.05


def compare(plain, attached, *, differs_from=None):
    """An attached model against the same in torch: None where torch gives none."""
    want, got = results(plain), results(attached)
    for name, value in want.items():
        assert (value is None) == (got[name] is None), name
        assert value is None or close(got[name], value), name
    if differs_from is not None:
        assert not close(want["y"], differs_from["y"]), "the change changes nothing"
    return want


def each(change, *models):
    for model in models:
        change(model)


def scale(value):
    def change(model):
        for module in (model.base_model.model.first, model.base_model.model.second):
            module.set_scale("default", value)

    return change


def other_adapter(model):
    torch.manual_seed(5)
    model.add_adapter("other", LoraConfig(**{**SETTINGS, "lora_alpha": 9}))
    filled(model)
    model.set_adapter("other")


def new_weights(model):
    torch.manual_seed(7)
    model.load_state_dict({name: torch.randn_like(value) * value.std() for name, value in model.state_dict().items()})


def written_past_torch(model):
    model.base_model.model.first.base_layer.weight.data.neg_()


def another_storage(model):
    model.base_model.model.middle.weight.data = -model.base_model.model.middle.weight.data


def another_parameter(model):
    weight = model.base_model.model.middle.weight
    model.base_model.model.middle.weight = nn.Parameter(weight.detach().flip(0).clone(), requires_grad=False)


def bias(model):
    model.base_model.model.first.base_layer.bias.data.add_(3)


CHANGES = {
    "scale 0.25": scale(0.25),
    "scale 0": scale(0.0),
    "scale -1": scale(-1.0),
    "disabled": lambda model: model.base_model.disable_adapter_layers(),
    "merged": lambda model: model.merge_adapter(),
    "merged and back": lambda model: (model.merge_adapter(), model(x()), model.unmerge_adapter(), scale(0.5)(model)),
    "merged and disabled": lambda model: (model.merge_adapter(), model(x()), model.base_model.disable_adapter_layers()),
    "other adapter": other_adapter,
    "deleted adapter": lambda model: (other_adapter(model), model.delete_adapter("default")),
    "new weights": new_weights,
    "written past torch": written_past_torch,
    "another storage": another_storage,
    "another parameter": another_parameter,
    "bias": bias,
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_followed(device, change):
    plain, attached = peft_model(), peft_model()
    loralith.attach(attached, device, modules="all", observer=ReferenceObserver())
    before = compare(plain, attached)
    each(CHANGES[change], plain, attached)
    compare(plain, attached, differs_from=None if change == "merged" else before)
    loralith.detach(attached)
    assert_same_values(attached(x()), plain(x()))


def test_a_context_without_the_adapter(device):
    plain, attached = peft_model(), peft_model()
    loralith.attach(attached, device)
    before = attached(x())
    with attached.disable_adapter():
        assert close(attached(x()), base_of(plain)(x()))
        assert not close(attached(x()), before)
    assert_same_values(attached(x()), before)


def base_of(model):
    """The base model alone."""
    return copy.deepcopy(model).unload()


def test_the_scale_of_a_forward_pass_is_its_backward_passs(device):
    """diffusers scales adapters for the forward pass alone (`cross_attention_kwargs`)."""
    plain, attached = peft_model(), peft_model()
    loralith.attach(attached, device, observer=ReferenceObserver())
    gradients = []
    for model in (plain, attached):
        scale(0.25)(model)
        y = model(x())
        scale(1.0)(model)
        y.square().sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert all(close(one, two) for one, two in zip(*reversed(gradients), strict=True))


def unet():
    torch.manual_seed(0)
    model = UNet2DConditionModel(**CONFIG).requires_grad_(False)
    model.add_adapter(LoraConfig(r=2, lora_alpha=4, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.5)
    return model


@pytest.mark.parametrize("modules", ["lora", "all"])
def test_diffusers_scales_and_processors(device, modules):
    plain, attached = unet(), unet()
    loralith.attach(attached, device, modules=modules)
    generator = torch.Generator().manual_seed(1)
    given = torch.randn(2, 1, 4, 4, generator=generator), torch.tensor([3, 700]), torch.randn(2, 3, 6, generator=generator)

    def outputs(**named):
        with torch.no_grad():
            return [model(*given, **named).sample for model in (plain, attached)]

    full, got = outputs()
    assert close(got, full, 0.98)
    quarter, got = outputs(cross_attention_kwargs={"scale": 0.25})
    assert close(got, quarter, 0.98)
    assert (quarter - full).norm() > 0.1 * full.norm()
    for model in (plain, attached):
        model.set_adapters(["default"], [0.5])
    half, got = outputs()
    assert close(got, half, 0.98)
    for model in (plain, attached):
        model.disable_adapters()
    none, got = outputs()
    assert close(got, none, 0.98)
    if modules == "all":
        before = device.counters().macs
        outputs()
        macs = device.counters().macs - before
        for processor in (AttnProcessor(), AttnProcessor2_0()):
            attached.set_attn_processor(processor)
            assert_same_values(outputs()[1], got)
        assert device.counters().macs - before == 3 * macs, "on the device, all of it"
    attached.set_attn_processor(SlicedAttnProcessor(1))
    if modules == "all":
        with pytest.raises(AttachError, match=r"attn1: its processor is SlicedAttnProcessor since .*; set AttnProcessor or"):
            outputs()
        attached.set_attn_processor(AttnProcessor())
        assert_same_values(outputs()[1], got)
    loralith.detach(attached)
    assert all(type(p) in (AttnProcessor, SlicedAttnProcessor) for p in attached.attn_processors.values())


def both_adapters(model):
    other_adapter(model)
    model.base_model.set_adapter(["default", "other"])


def another_rank(model):
    model.add_adapter("other", LoraConfig(**{**SETTINGS, "r": 4}))
    model.set_adapter("other")


def dropout(model):
    model.add_adapter("other", LoraConfig(**{**SETTINGS, "lora_dropout": 0.5}))
    model.set_adapter("other")


def unfrozen(model):
    model.base_model.model.middle.weight.requires_grad_(True)


def unfrozen_base(model):
    model.base_model.model.second.base_layer.weight.requires_grad_(True)


def another_shape(model):
    model.base_model.model.middle.weight = nn.Parameter(torch.zeros(20, 21), requires_grad=False)


def not_finite(model):
    model.base_model.model.middle.weight[0, 0] = torch.inf


REFUSED = {
    both_adapters: r"first: exactly one adapter may be active, as when the model was attached, not default, other; detach and attach again",
    another_rank: r"first: adapter other has rank 4, the layer was attached with 3; detach and attach again",
    dropout: r"first: lora_dropout must be 0, not 0.5",
    unfrozen: r"middle: its weight is trained since the model was attached; freeze it, or detach and attach again",
    unfrozen_base: r"second: its weight is trained since the model was attached",
    another_shape: r"middle: W must have the shape \(20, 20\), not \(20, 21\); detach and attach again",
    not_finite: r"middle: W must be finite, but its element \(0, 0\) is inf",
    scale(float("nan")): r"first: the scaling of adapter default must be finite, not nan",
}


@pytest.mark.parametrize("change", REFUSED)
def test_a_change_is_refused(device, change):
    model = peft_model()
    loralith.attach(model, device, modules="all")
    model(x())
    with torch.no_grad():
        change(model)
    with pytest.raises(AttachError, match=REFUSED[change]):
        model(x())


def test_a_weight_that_changes_before_its_backward_pass_is_refused(device):
    for module, change in (("first", lambda w: w.mul_(2)), ("middle", lambda w: w.data.neg_())):
        model = peft_model()
        loralith.attach(model, device, modules="all")
        y = model(x()).sum()
        inner = model.base_model.model.get_submodule(module)
        change(getattr(inner, "base_layer", inner).weight)
        with pytest.raises(AttachError, match=f"{module}.*: its frozen weight was changed between the forward pass and its backward"):
            y.backward()
        loralith.detach(model)


def test_several_adapters_with_one_active(device):
    plain, attached = peft_model(), peft_model()
    each(other_adapter, plain, attached)
    loralith.attach(attached, device)
    compare(plain, attached)
    for model in (plain, attached):
        model.set_adapter("default")
    compare(plain, attached)


def saved_and_loaded(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda model: pickle.loads(pickle.dumps(model)), "torch.save": saved_and_loaded}


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("modules", ["lora", "all"])
def test_a_copy_of_an_attached_model_is_a_plain_one(device, copied, modules):
    """Its outputs are torch's, its weights its own, and it can be attached too."""
    plain = peft_model()
    model = nn.ModuleDict({"small": peft_model(), "attention": Attention(8, heads=2, dim_head=4)})
    for parameter in model["attention"].parameters():
        parameter.requires_grad_(False)
    loralith.attach(model, device, modules=modules)
    y, work = model["small"](x()), device.counters().macs
    twin = COPIES[copied](model)
    tokens = torch.randn(2, 3, 8)
    assert_same_values(twin["small"](x()), plain(x()))
    assert type(twin["attention"].processor) is AttnProcessor2_0
    twin["attention"](tokens)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert not twin["small"](x()).any()
    assert device.counters().macs == work
    assert_same_values(model["small"](x()), y)
    again = copy.deepcopy(twin)
    loralith.attach(twin, device, modules=modules)
    assert not twin["small"](x()).any()
    assert device.counters().macs > work
    loralith.detach(twin)
    loralith.detach(model)
    assert_same_values(model["small"](x()), plain(x()))
    assert not again["small"](x()).any()


def test_a_function_around_an_attached_one_stays(device):
    """accelerate and others put functions of their own around `forward`."""
    model = peft_model()
    want = model(x())
    loralith.attach(model, device)
    first, calls = model.base_model.model.first, []
    inner = first.forward
    first.forward = lambda *args: (calls.append(1), inner(*args))[1]
    got = model(x())
    loralith.detach(model)
    assert_same_values(model(x()), want)
    assert not torch.equal(got, want)
    assert len(calls) == 2
