"""Adapters as people make them with PEFT: which of them run on a device, with which gradients, and what of them stays in torch."""

import copy
import io

import pytest
import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import loralith
from helpers.same_values import assert_same_values
from loralith.mapping.select import AttachError
from loralith.spec.scheme import FQT
from loralith.training.verification import ReferenceObserver


class Picture(nn.Module):
    """A convolution of each kind that people adapt, linear layers, and an embedding."""

    def __init__(self):
        super().__init__()
        self.conv_in = nn.Conv2d(3, 16, 3, padding=1)
        self.down = nn.Conv2d(16, 24, 3, stride=2, padding=1)
        self.point = nn.Conv2d(24, 24, 1)
        self.wide = nn.Linear(24, 32)
        self.gate = nn.Linear(24, 32, bias=False)
        self.narrow = nn.Linear(32, 24)
        self.head = nn.Linear(24, 6)

    def forward(self, x):
        x = torch.tanh(self.down(torch.tanh(self.conv_in(x))))
        x = (x + self.point(x)).flatten(2).transpose(1, 2)
        x = x + self.narrow(torch.tanh(self.wide(x)) * torch.tanh(self.gate(x)))
        return self.head(x)


LINEAR = ["wide", "gate", "narrow"]
EVERYWHERE = [*LINEAR, "down", "point"]


def lora(**settings):
    return LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": LINEAR, **settings})


ADAPTERS = {
    "plain": lora(),
    "r16": lora(r=16),
    "r128": lora(r=128),
    "rslora": lora(r=16, use_rslora=True),
    "patterns": lora(rank_pattern={"wide": 2, "narrow": 9}, alpha_pattern={"gate": 1}),
    "pissa": lora(init_lora_weights="pissa"),
    "olora": lora(init_lora_weights="olora"),
    "all-linear": lora(target_modules="all-linear"),
    "dropout": lora(lora_dropout=0.3),
    "bias": lora(lora_bias=True, target_modules=["wide", "narrow"]),
    "convolutions": lora(target_modules=EVERYWHERE, r=16),
    "convolutions, dropout": lora(target_modules=EVERYWHERE, lora_dropout=0.1),
    "dora": lora(use_dora=True),
    "dora, convolutions, dropout": lora(use_dora=True, target_modules=EVERYWHERE, lora_dropout=0.2),
    "modules_to_save": lora(modules_to_save=["head", "point"]),
    "lokr": LoKrConfig(r=4, alpha=8, target_modules=EVERYWHERE),
    "lokr, decomposed": LoKrConfig(r=2, alpha=2, target_modules=LINEAR, decompose_both=True, decompose_factor=4),
    "loha": LoHaConfig(r=4, alpha=8, target_modules=EVERYWHERE),
}
PLAIN = {"plain", "r16", "r128", "rslora", "patterns", "pissa", "olora", "all-linear", "modules_to_save"}
"""Those of which a layer is one module on the device."""
LYCORIS = {"lokr", "lokr, decomposed", "loha"}
STAYS = {
    **{key: {"the product of its factors is torch's; the product with X is the device's"} for key in LYCORIS},
    **{key: {"DoRA's norms of W + s B A are torch's"} for key in ["dora", "dora, convolutions, dropout"]},
}
"""What `unmapped` says of those of which a product stays in torch."""


def adapted(config, dtype=torch.float32):
    """The model with an adapter whose every tensor is other than zero."""
    torch.manual_seed(0)
    model = get_peft_model(Picture().requires_grad_(False), copy.deepcopy(config))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and not parameter.any():
                nn.init.normal_(parameter, std=0.1)
            if dtype is not torch.float32 and not parameter.requires_grad:
                parameter.data = parameter.to(dtype)
    return model


def picture():
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def results(model, through=None):
    """Output and gradients of all that is trained, by name."""
    torch.manual_seed(3)
    x = picture().requires_grad_()
    y = model(x) if through is None else through(x)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(2))
    (y.float() * weights).sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return {"y": y.detach(), "dX": x.grad, **found}


def cosine(one, two):
    return float(nn.functional.cosine_similarity(one.flatten().double(), two.flatten().double(), dim=0))


def all_gradients(found):
    """Gradients of what is trained, one after the other."""
    return torch.cat([value.flatten().float() for name, value in sorted(found.items()) if name not in ("y", "dX")])


def compare(got, want, bound=0.99):
    assert got.keys() == want.keys()
    assert cosine(all_gradients(got), all_gradients(want)) > bound
    assert cosine(got["y"], want["y"]) > bound
    assert cosine(got["dX"], want["dX"]) > 0.98


@pytest.fixture
def direct():
    """The device that computes on the host, whose bits are those of every other."""
    with loralith.open_device("direct", "base") as opened:
        yield opened


@pytest.mark.parametrize("kind", ADAPTERS)
def test_an_adapter_is_near_torch_and_every_product_is_its_definition(direct, kind):
    model = adapted(ADAPTERS[kind])
    want = results(model)
    observer = ReferenceObserver()
    attachment = loralith.attach(model, direct, observer=observer)
    compare(results(model), want)
    assert observer.compared
    assert not attachment.open
    layers = {layer.name: layer.kind for layer in attachment.layers}
    assert ("trained" in layers.values()) == (kind not in PLAIN | LYCORIS)
    attachment.detach()
    again = results(model)
    for name, value in want.items():
        assert_same_values(again[name], value, name)
    assert len(direct.heap.taken) <= 1, "the list's buffer alone"


@pytest.mark.parametrize("kind", ["modules_to_save", "convolutions, dropout", "dora, convolutions, dropout", "lokr", "loha"])
def test_nothing_of_an_adapter_stays_in_torch_without_being_named(direct, kind):
    model = adapted(ADAPTERS[kind])
    want = results(model)
    attachment = loralith.attach(model, direct, modules="all")
    with FlopCounterMode(display=False) as counter:
        got = results(model)
    compare(got, want)
    assert {choice.reason for choice in attachment.unmapped} == STAYS.get(kind, set())
    assert kind in STAYS or not counter.get_total_flops()


SOME = ["dora, convolutions, dropout", "lokr"]


@pytest.mark.parametrize("kind", SOME)
def test_a_device_with_lists_gives_the_same_bits(direct, device, kind):
    found = []
    for one in (direct, device):
        model = adapted(ADAPTERS[kind])
        loralith.attach(model, one, FQT(stochastic=("X", "dY", "A"), seed=5))
        found.append(results(model))
    for name, value in found[0].items():
        assert_same_values(found[1][name], value, name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["plain", "convolutions, dropout", "dora"])
def test_a_base_of_16_bits(direct, kind, dtype):
    """The adapter in FP32, as PEFT makes it, around a base of 16 bits, as trainers load it."""
    model = adapted(ADAPTERS[kind], dtype)

    def through(x):
        return model(x.to(dtype))

    want = results(model, through)
    loralith.attach(model, direct)
    got = results(model, through)
    compare(got, want)
    assert got["y"].dtype == dtype
    assert all(p.grad is None and (p.dtype == torch.float32) == p.requires_grad for p in model.parameters())


def two(dropout=0.0):
    """A model with two adapters, of which `second` is trained."""
    model = adapted(lora(lora_dropout=dropout))
    model.add_adapter("second", lora(r=3, lora_dropout=dropout, init_lora_weights=False))
    model.set_adapter("second")
    return model


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_several_adapters_with_one_trained(direct, dropout):
    """Alone, and beside the other one, which stays as it is."""
    for both in (False, True):
        model = two(dropout)
        if both:
            model.base_model.set_adapter(["default", "second"])
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(".second." in name)
        want = results(model)
        attachment = loralith.attach(model, direct, observer=ReferenceObserver())
        got = results(model)
        compare(got, want)
        assert all(".second." in name for name in got if name not in ("y", "dX"))
        attachment.detach()


def test_adapters_in_parts_are_followed(direct):
    """Which is active, its scale, none, a copy, and a file of the model."""
    model = two(0.2).eval()
    attachment = loralith.attach(model, direct)
    plain = copy.deepcopy(model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert_same_values(loaded(picture()), plain(picture()))

    def both(change):
        for one in (model, plain):
            change(one)
        got, want = model(picture()).detach(), plain(picture()).detach()
        assert cosine(got, want) > 0.999
        return want

    seen = [both(lambda one: one.set_adapter("default")), both(lambda one: one.set_adapter("second"))]
    seen.append(both(lambda one: one.base_model.set_adapter(["default", "second"])))
    seen.append(both(lambda one: one.base_model.model.wide.set_scale("default", 3.0)))
    with model.disable_adapter(), plain.disable_adapter():
        seen.append(both(lambda one: None))
    assert all((one - other).norm() > 0.01 * one.norm() for i, one in enumerate(seen) for other in seen[:i])
    model.add_adapter("third", lora())
    model.set_adapter("third")
    with pytest.raises(AttachError, match=r"wide: adapter third was added since the model was attached; detach and attach again"):
        model(picture())
    attachment.detach()
    model(picture())


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_of_adapters_in_parts(direct, reentrant):
    """Dropout draws the same mask once more, and the device rounds in the same way."""
    found = []
    for through in (lambda model: model, lambda model: lambda x: checkpoint(model, x, use_reentrant=reentrant)):
        model = adapted(ADAPTERS["dora, convolutions, dropout"])
        attachment = loralith.attach(model, direct, modules="all")
        found.append(results(model, through(model)))
        assert not attachment.open
        attachment.detach()
    for name, value in found[0].items():
        assert_same_values(found[1][name], value, name)


class Odd(nn.Module):
    """Layers that nothing maps."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(7, 8)
        self.line = nn.Conv1d(8, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.wide = nn.Linear(8, 8)

    def forward(self, x):
        return self.wide(self.grouped(self.line(self.words(x).mT).mT.mT[..., None]).squeeze(-1).mT)


REFUSED = {
    "words": "LoRA on Embedding is not supported; target linear layers and 2-D convolutions",
    "line": "LoRA on Conv1d is not supported; target linear layers and 2-D convolutions",
    "grouped": "its base layer stays in torch: groups must be 1, not 4",
}


@pytest.mark.filterwarnings("ignore:LoRA adapter added to ConvNd layer with groups:UserWarning")  # PEFT's own
@pytest.mark.parametrize("target", REFUSED)
def test_what_is_not_mapped_is_refused_or_named(direct, target):
    def make():
        return get_peft_model(Odd().requires_grad_(False), LoraConfig(r=4, target_modules=["wide", target]))

    with pytest.raises(AttachError, match=f"{target}: {REFUSED[target]}"):
        loralith.attach(make(), direct)
    model = make()
    with pytest.warns(UserWarning, match=f"1 LoRA layers stay in torch .*{target}: {REFUSED[target]}"):
        attachment = loralith.attach(model, direct, unsupported="leave")
    assert [choice.name.split(".")[-1] for choice in attachment.unmapped if choice.kind == "lora"] == [target]
    model(torch.arange(7)[None]).sum().backward()
