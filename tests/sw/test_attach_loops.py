"""Plain torch loops over an attached model, without any call of ours: steps, passes and device memory are right."""

import gc

import pytest
import torch
from torch import nn

import loralith
from helpers.lora_loops import ALL_STOCHASTIC, SCHEMES, equal, gradients, inputs, peft_model, trained
from helpers.same_values import assert_same_values
from loralith.mapping.select import AttachError
from loralith.training.verification import ReferenceObserver
from loralith.verif.reference_attachment import ReferenceAttachment


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
        assert_same_values(model(x), model(inputs(1)))
        x.copy_(inputs(0))
        assert_same_values(model(x), first)


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
        assert_same_values(model(inputs()), want)
        x = inputs()
        model(x)
        x.add_(1)
        assert_same_values(model(x), model(inputs() + 1))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # torch's own, which it hides
@pytest.mark.parametrize("modules", ["lora", "all"])
def test_torch_compile_around_an_attached_model(device, modules):
    model = peft_model()
    attachment = loralith.attach(model, device, modules=modules)
    attachment.step_begin(1)
    y, want = model(inputs()), gradients(model)
    compiled = torch.compile(model, backend="eager")
    attachment.step_begin(1)
    assert_same_values(compiled(inputs()), y)
    assert equal(gradients(model, through=compiled), want)
