"""Plain torch loops over an attached model, without any call of ours: steps, passes and device memory are right."""

import gc

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils.checkpoint import checkpoint

import loralith
from loralith.mapping.select import AttachError
from loralith.spec.scheme import FQT
from loralith.training.verification import ReferenceObserver
from loralith.verif.reference_attachment import ReferenceAttachment


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


def loop(model, steps, before=lambda step: None):
    """Losses of a loop as anybody writes it."""
    optimizer = torch.optim.SGD(trained(model).values(), lr=0.01)
    losses = []
    for step in range(steps):
        before(step)
        optimizer.zero_grad()
        loss = model(inputs(step)).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        with torch.no_grad():
            model(inputs(99))
    return losses


@pytest.mark.parametrize("scheme", SCHEMES)
def test_steps_count_by_themselves(device, scheme):
    model = peft_model()
    attachment = loralith.attach(model, device, scheme)
    plain = loop(model, 3)
    assert attachment.step == 2
    attachment.detach()
    model = peft_model()
    attachment = loralith.attach(model, device, scheme)
    assert loop(model, 3, attachment.step_begin) == plain
    model = peft_model()
    ReferenceAttachment(model, scheme)
    assert loop(model, 3) == plain, "the reference counts in the same way"


def test_an_explicit_step_is_the_callers(device):
    """Accumulated gradients of one step are passes of one step."""
    model = peft_model()
    attachment = loralith.attach(model, device)
    attachment.step_begin(5)
    one, two = gradients(model), gradients(model)
    assert attachment.step == 5
    assert not equal(one, two), "another call, other random numbers"
    attachment.step_begin(5)
    assert equal(gradients(model), one)
    with pytest.raises(AttachError, match=r"step must be in 0\.\.2\*\*32-1, not -1"):
        attachment.step_begin(-1)


def test_a_layer_may_run_any_number_of_times_in_a_step(device):
    """300 passes of one layer in one step, and 300 steps; random numbers differ, and device memory does not grow."""
    torch.manual_seed(0)
    model = peft_model(target_modules=["second"])
    attachment = loralith.attach(model, device, ALL_STOCHASTIC, observer=ReferenceObserver())
    x = torch.randn(1, 20)
    with torch.no_grad():
        results = [model.base_model.model.second(x) for _ in range(300)]
    assert attachment.layers[0].calls == 300
    assert len({tuple(result.flatten().tolist()) for result in results}) > 30
    for _ in range(3):
        model.base_model.model.second(x).sum().backward()
    used = device.heap.used
    attachment.step_begin(0)
    for _ in range(260):  # accumulated gradients of one explicit step
        model.base_model.model.second(x).sum().backward()
    assert device.heap.used == used
    assert attachment.layers[0].calls == 260
    assert not attachment.open


def test_what_is_open_goes_with_its_graph(device):
    model = peft_model()
    attachment = loralith.attach(model, device, modules="all")
    kept = [model(inputs(seed)) for seed in range(3)]
    assert len(attachment.open) == 6
    for _ in range(20):
        model(inputs(9))
    assert len(attachment.open) == 6
    del kept[0]
    assert len(attachment.open) == 4
    first = kept[0].sum()
    first.backward()
    assert len(attachment.open) == 2
    side = model.base_model.model.first(inputs(1))  # misses the loss
    kept[1].sum().backward()
    assert len(attachment.open) == 1
    del side
    with pytest.raises(KeyError):
        raise KeyError(model(inputs(2)))  # an interrupted step
    gc.collect()
    assert not attachment.open


def test_a_deleted_model_frees_its_memory(device):
    model = peft_model()
    loralith.attach(model, device, modules="all")
    y = model(inputs()).sum()
    del model
    gc.collect()
    y.backward()  # the graph holds what it needs, as in torch
    del y
    gc.collect()
    device.run_deferred()
    gc.collect()
    assert len(device.heap.taken) == 1, "the list's buffer alone"


def test_memory_that_only_garbage_holds_is_found():
    with loralith.open_device("reference", config="tiny", memory_bytes=1 << 15) as device:
        gc.disable()
        try:
            for _ in range(20):
                model = peft_model()
                loralith.attach(model, device, modules="all")
                gradients(model)
        finally:
            gc.enable()


def test_cached_inputs_do_not_pile_up(device):
    """X of prompts that a loop keeps: device memory holds some, the bits are the same."""
    model = peft_model()
    attachment = loralith.attach(model, device)
    prompts = [inputs(seed) for seed in range(30)]
    with torch.no_grad():
        first = [model(prompt) for prompt in prompts]
        assert len(attachment.inputs) <= 9
        assert all(torch.equal(model(prompt), y) for prompt, y in zip(prompts, first, strict=True))
    gradients(model)
    model(inputs(1))  # the next step
    assert len(attachment.inputs) <= 2


def test_an_input_that_changes_in_place_is_read_again(device):
    model = peft_model()
    loralith.attach(model, device)
    x = inputs(0)
    with torch.no_grad():
        first = model(x)
        x.numpy()[:] = inputs(1).numpy()  # past torch's count of changes
        assert torch.equal(model(x), model(inputs(1)))
        x.copy_(inputs(0))
        assert torch.equal(model(x), first)


def test_a_retained_graph(device):
    model = peft_model()
    attachment = loralith.attach(model, device, observer=ReferenceObserver(), modules="all")
    parameters = list(trained(model).values())
    y = model(inputs())
    one = torch.autograd.grad(y[:, 0].sum(), parameters, retain_graph=True)
    two = torch.autograd.grad(y[:, 1].sum(), parameters, retain_graph=True)
    again = torch.autograd.grad(y[:, 0].sum(), parameters)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not attachment.open
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(y[:, 0].sum(), parameters)


def test_two_losses_over_one_pass_add_up(device):
    model = peft_model()
    loralith.attach(model, device)
    y = model(inputs())
    y[:, 0].sum().backward(retain_graph=True)
    first = {name: p.grad.clone() for name, p in trained(model).items()}
    y[:, 1].sum().backward()
    second = {name: p.grad - first[name] for name, p in trained(model).items()}
    assert all(value.abs().max() > 0 for value in second.values())


def differentiate_twice(model, x):
    (dx,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    dx.sum().backward()


def penalize_gradients(model, x):
    """The gradients of a last layer under a linear loss: torch has a graph for them, and lost it without a word."""
    loss = model(x).sum()
    ours = torch.autograd.grad(loss, list(trained(model).values()), create_graph=True)
    (loss + ours[-1].square().sum()).backward()


@pytest.mark.parametrize("modules", ["lora", "all"])
@pytest.mark.parametrize(
    ("through", "message"),
    [
        pytest.param(differentiate_twice, "gradients of gradients", id="twice"),
        pytest.param(penalize_gradients, "gradients of gradients", id="penalty"),
        pytest.param(
            lambda model, x: torch.autograd.functional.hessian(lambda one: model(one).square().sum(), x),
            "gradients of gradients",
            id="hessian",
        ),
        pytest.param(lambda model, x: torch.func.vmap(model)(x), "torch.func", id="vmap"),
        pytest.param(lambda model, x: torch.func.grad(lambda one: model(one).sum())(x), "torch.func", id="grad"),
        pytest.param(lambda model, x: torch.func.jvp(model, (x,), (x,)), "torch.func", id="jvp"),
    ],
)
@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # torch's own, where it loads jvp
def test_what_torch_cannot_see_through_is_refused(device, modules, through, message):
    model = peft_model()
    loralith.attach(model, device, modules=modules)
    with pytest.raises(AttachError, match=rf"(first|second): {message}"):
        through(model, inputs().requires_grad_())


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("modules", ["lora", "all"])
def test_checkpointing_changes_no_bit_and_keeps_no_memory(device, scheme, reentrant, modules):
    plain, checked = peft_model(), peft_model()
    one, two = (loralith.attach(model, device, scheme, modules=modules) for model in (plain, checked))
    for step in range(3):
        x = inputs(step).requires_grad_()
        want = gradients(plain, x)
        y = checkpoint(checked, x, use_reentrant=reentrant)
        assert not two.open, "what will be done again keeps nothing"
        if reentrant:
            y.square().sum().backward()
            got = {name: p.grad for name, p in trained(checked).items()}
        else:
            parameters = trained(checked)
            got = dict(zip(parameters, torch.autograd.grad(y.square().sum(), list(parameters.values())), strict=True))
        assert equal(got, want), step
        assert not two.open
        for p in trained(checked).values():
            p.grad = None
    assert one.state_dict() == two.state_dict()
    assert one.step == two.step == 2


def test_checkpointing_takes_less_device_memory(device):
    """Four blocks: the passes of one block at a time, not those of all."""
    blocks = nn.Sequential(*(peft_model(target_modules=["first"]) for _ in range(4)))
    shrink = nn.Linear(8, 12).requires_grad_(False)
    attachment = loralith.attach(blocks, device)
    most = []
    x = inputs(rows=200).requires_grad_()

    def forward(call):
        y = x
        for block in blocks:
            y = shrink(call(block, y))
            most.append(len(attachment.open))
        return y.sum()

    forward(lambda block, y: block(y)).backward()
    assert most == [1, 2, 3, 4]
    most.clear()
    forward(lambda block, y: checkpoint(block, y, use_reentrant=False)).backward()
    assert most == [0, 0, 0, 0]


def test_an_infinite_gradient_goes_on_and_the_step_is_skipped(device):
    """FP16 autocast with a GradScaler whose first scale is too large."""
    model = peft_model()
    attachment = loralith.attach(model, device, modules="all")
    optimizer = torch.optim.SGD(trained(model).values(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    before = {name: p.detach().clone() for name, p in trained(model).items()}
    scales, moved = [], []
    for step in range(40):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            y = model(inputs(step))
            assert y.dtype == torch.float16
            loss = y.float().square().mean()
        scaler.scale(loss).backward()
        if step == 0:
            assert not any(p.grad.isfinite().any() for p in trained(model).values())
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
        moved.append(not equal({name: p.detach() for name, p in trained(model).items()}, before))
        if moved[-1]:
            break
    assert scales[0] == 2.0**39
    assert len(moved) > 3
    assert all(p.isfinite().all() for p in trained(model).values())
    assert not attachment.open


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_no_gradient_is_finite_behind_one_that_is_not(device, bad):
    from diffusers.models.attention_processor import Attention

    torch.manual_seed(0)
    model = nn.ModuleDict({"conv": nn.Conv2d(8, 8, 1), "attention": Attention(8, heads=2, dim_head=4)}).requires_grad_(False)
    attachment = loralith.attach(model, device, modules="all")
    x = torch.randn(1, 8, 2, 3, requires_grad=True)
    y = model["attention"](model["conv"](x).flatten(2).transpose(1, 2))
    weight = torch.ones_like(y)
    weight[0, 0, 0] = bad
    (y * weight).sum().backward()
    assert not x.grad.isfinite().any()
    assert not attachment.open


def test_inference_mode(device):
    model = peft_model()
    loralith.attach(model, device, modules="all")
    want = model(inputs())
    with torch.inference_mode():
        assert torch.equal(model(inputs()), want)
        x = inputs()
        model(x)
        x.add_(1)
        assert torch.equal(model(x), model(inputs() + 1))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # torch's own, which it hides
@pytest.mark.parametrize("modules", ["lora", "all"])
def test_torch_compile_around_an_attached_model(device, modules):
    model = peft_model()
    attachment = loralith.attach(model, device, modules=modules)
    attachment.step_begin(1)
    y, want = model(inputs()), gradients(model)
    compiled = torch.compile(model, backend="eager")
    attachment.step_begin(1)
    assert torch.equal(compiled(inputs()), y)
    assert equal(gradients(model, through=compiled), want)
