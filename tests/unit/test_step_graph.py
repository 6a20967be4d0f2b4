"""The step graph: torch's operators lowered and interpreted give the numbers that the eager mode computes on its own, bit for bit."""

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.nn import functional

from helpers.same_values import assert_same_values
from loralith.diffusion.unet import UNET_CONFIG, new_unet
from loralith.errors import LoralithError
from loralith.spec.graph import MOVES, Graph, GraphError, Kind, Node, Op
from loralith.spec.numerics import hash32, hash_key
from loralith.spec.step import StepScheme
from loralith.step.capture import Capture, capture_forward, capture_step
from loralith.step.host import frozen_values, host_inputs, to_words
from loralith.step.lowering import Lowered, lower
from loralith.step.saved import plan_memory, tensor_bytes
from loralith.verif.graph import draw_bytes, interpret
from loralith.verif.step.mode import StepMode
from loralith.verif.step.step_attachment import StepAttachment
from loralith.verif.step.step_products import Operands

SCHEME = StepScheme(storage="bf16", optimizer_bits=16, seed=5)
CONFIG = {
    **UNET_CONFIG,
    "sample_size": 8,
    "block_out_channels": (16, 16),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "mid_block_type": None,
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "norm_num_groups": 4,
    "attention_head_dim": 2,
}


def lora(model: nn.Module, targets: list[str]) -> PeftModel:
    """``model`` with an adapter whose B is not zero, all its parameters words."""
    model.requires_grad_(False)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=targets)).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.02)
            parameter.copy_(to_words(parameter))
    return adapted  # type: ignore[return-value]


@pytest.fixture(scope="module")
def step() -> tuple[PeftModel, Callable[..., Tensor], dict[str, Tensor], Capture, Lowered]:
    """A small U-Net with every operator of a larger one: its loss, a batch, what was captured and lowered."""
    torch.manual_seed(0)
    unet: UNet2DConditionModel = new_unet(CONFIG)
    model = lora(unet, ["to_q", "to_k", "to_v", "to_out.0"])

    def loss(noised: Tensor, timesteps: Tensor, condition: Tensor, noise: Tensor) -> Tensor:
        return functional.mse_loss(model(noised, timesteps, condition).sample, noise)

    batch = {
        "noised": to_words(torch.randn(2, 1, 8, 8)),
        "timesteps": torch.tensor([3, 700]),
        "condition": to_words(torch.randn(2, 5, CONFIG["cross_attention_dim"])),
        "noise": to_words(torch.randn(2, 1, 8, 8)),
    }
    capture = capture_step(model, loss, batch)
    return model, loss, batch, capture, lower(capture, SCHEME)


def test_a_whole_step_is_that_of_the_eager_mode(step) -> None:
    model, loss, batch, capture, lowered = step
    graph = lowered.graph
    given = frozen_values(capture, graph) | host_inputs(capture, lowered, batch)
    given |= {node.name: capture.parameters[node.name].detach() for node in graph.of(Op.STATE)}
    wanted = {name: what for what, name in graph.outputs.items()}
    found = {wanted[node.name]: value for node, value in interpret(graph, given, SCHEME.seed, 7) if node.name in wanted}

    attachment = StepAttachment(model, SCHEME)
    attachment.step_begin(7)
    model.zero_grad()
    with attachment.computing():
        value = loss(**batch)
        value.backward()
    assert found["loss"].item() == value.item()
    parameters = dict(model.named_parameters())
    assert len(capture.trained) > 20
    for name in capture.trained:
        gradient = parameters[name].grad
        assert gradient is not None
        assert gradient.abs().max() > 0, name
        assert_same_values(found[f"gradient.{name}"], gradient, name)


def test_a_forward_pass_with_two_int8_tensors_an_operand_is_that_of_the_eager_mode(step) -> None:
    """ZOODiP's numbers: a trained vector moves the condition, and the prediction follows it closely."""
    batch = step[2]
    torch.manual_seed(0)
    model = new_unet(CONFIG).requires_grad_(False).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(to_words(parameter))
    own = nn.Parameter(to_words(torch.randn(CONFIG["cross_attention_dim"])))

    def forward(noised: Tensor, timesteps: Tensor, condition: Tensor, noise: Tensor) -> Tensor:
        both = noised[None].expand(2, *noised.shape).clone().reshape(-1, *noised.shape[1:])
        return model(both, timesteps[None].expand(2, 2).reshape(-1), torch.cat([condition, condition + own])).sample

    scheme = StepScheme(storage="vector", operand_words=2)
    capture = capture_forward(model, {"own": own}, forward, batch)
    lowered = lower(capture, scheme)
    given = frozen_values(capture, lowered.graph) | host_inputs(capture, lowered, batch) | {"own": own.detach()}
    name = lowered.graph.outputs["prediction"]
    found = next(value for node, value in interpret(lowered.graph, given, 0, 0) if node.name == name)
    weights = [module.weight for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    with StepMode(Operands(scheme, weights, [(own, None)])), torch.no_grad():
        wanted = forward(**batch)
    assert_same_values(found, wanted)
    with torch.no_grad():
        exact = forward(**batch)
    assert (found - exact).abs().max() < 0.02 * exact.abs().max()
    single = lower(capture, StepScheme())
    rough = next(v for n, v in interpret(single.graph, given, 0, 0) if n.name == single.graph.outputs["prediction"])
    assert (found - exact).norm() < 0.5 * (rough - exact).norm()


def test_two_int8_tensors_an_operand_are_refused_where_there_are_gradients(step) -> None:
    with pytest.raises(LoralithError, match="operand_words is 1, not 2"):
        lower(step[3], StepScheme(operand_words=2))


def test_the_graph_holds_what_a_step_needs_and_nothing_else(step) -> None:
    graph = step[4].graph
    read = {name for node in graph.nodes.values() for name in node.inputs} | set(graph.outputs.values())
    assert [name for name in graph.nodes if name not in read] == []
    assert {node.op for node in graph.nodes.values()} >= {
        Op.MATMUL,
        Op.CONVOLUTION,
        Op.CONVOLUTION_INPUT,
        Op.PHI,
        Op.EXP2,
        Op.RSQRT,
        Op.REPEAT,
    }
    # Only the batch comes from the host: the noised images, the timesteps' embedding, the condition and the target.
    assert sorted(graph[name].shape for name in step[4].host) == [(2, 1, 8, 8), (2, 1, 8, 8), (2, 5, 64), (2, 16)]


def test_what_is_saved_is_enough_and_none_of_it_is_too_much(step) -> None:
    """From saved tensors and what is resident, all that the backward pass reads follows without a product but softmax's own and those whose
    result is at least four times their operand."""
    graph = step[4].graph
    plan = plan_memory(graph)
    names = list(graph.nodes)
    loss = names.index(graph.outputs["loss"])
    wanted = {x for name in names[loss + 1 :] for x in graph[name].inputs if isinstance(x, str) and names.index(x) <= loss}
    scores = {x for node in graph.of(Op.MAXIMUM) for x in chain_to_product(graph, node)}
    large = {
        node.name
        for node in graph.of(Op.MATMUL)
        for tokens in [[n for n in operands(graph, node) if n.op not in (Op.FROZEN, Op.STATE, Op.INPUT)]]
        if len(tokens) == 1 and math.prod(node.shape) >= 4 * math.prod(tokens[0].shape)
    }

    def missing(saved: set[str]) -> set[str]:
        there: set[str] = set()
        for name in names[: loss + 1]:
            node = graph[name]
            barred = node.op in (Op.CONVOLUTION, Op.LARGEST, Op.SUM) or (node.op is Op.MATMUL and name not in scores | large)
            resident = node.op in (Op.INPUT, Op.FROZEN, Op.STATE)
            if name in saved or resident or (not barred and all(x in there for x in node.inputs if isinstance(x, str))):
                there.add(name)
        return wanted - there

    saved = set(plan.saved)
    assert missing(saved) == set()
    assert [name for name in saved if not missing(saved - {name})] == []
    brain = sum(tensor_bytes(graph, node) for node in graph.of(Op.BRAIN) if names.index(node.name) <= loss)
    assert 0 < plan.saved_bytes < brain / 2
    assert plan.resident < plan.forward_peak < plan.peak < plan.resident + brain


def operands(graph: Graph, node: Node) -> list[Node]:
    """What a product reads, without views."""
    found = [graph[x] for x in node.inputs if isinstance(x, str)]
    while any(n.op in MOVES and n.op is not Op.CONCAT for n in found):
        found = [graph[n.inputs[0]] if n.op in MOVES and n.op is not Op.CONCAT else n for n in found]
    return found


def chain_to_product(graph: Graph, node: Node) -> Iterator[str]:
    """The product whose sums a softmax's maximum is taken of."""
    while node.op is not Op.MATMUL:
        node = graph[node.inputs[0]]
    yield node.name


def test_another_step_rounds_otherwise_and_the_same_step_alike(step) -> None:
    _, _, batch, capture, lowered = step
    given = frozen_values(capture, lowered.graph) | host_inputs(capture, lowered, batch)
    given |= {node.name: capture.parameters[node.name].detach() for node in lowered.graph.of(Op.STATE)}
    name = lowered.graph.outputs[f"gradient.{capture.trained[0]}"]

    def gradient(step: int) -> Tensor:
        return next(value for node, value in interpret(lowered.graph, given, SCHEME.seed, step) if node.name == name)

    first = gradient(1)
    assert_same_values(first, gradient(1))
    assert not torch.equal(first, gradient(2))


class Dropped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.dropout = nn.Linear(8, 8), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.linear(x))


class Cumulative(Dropped):
    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).cumsum(-1)


class Branching(Dropped):
    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        return y if float(y.sum()) > 0 else -y


def mean_square(model: nn.Module) -> Callable[..., Tensor]:
    return lambda x: functional.mse_loss(model(x), x)


def test_dropout_in_training_mode_is_refused_by_name() -> None:
    model = lora(Dropped(), ["linear"]).train()
    with pytest.raises(LoralithError, match=r"dropout: dropout of 0\.5 in training mode"):
        capture_step(model, mean_square(model), {"x": torch.randn(4, 8)})


def test_a_step_that_depends_on_values_is_refused() -> None:
    model = lora(Branching(), ["linear"])
    with pytest.raises(LoralithError, match="depends on values"):
        capture_step(model, mean_square(model), {"x": torch.randn(4, 8)})


def test_an_operator_without_a_program_is_refused_by_name() -> None:
    model = lora(Cumulative(), ["linear"])
    capture = capture_step(model, mean_square(model), {"x": torch.randn(4, 8)})
    with pytest.raises(LoralithError, match=r"no operator aten\.cumsum.*at cumsum"):
        lower(capture, SCHEME)


def test_a_model_without_trained_parameters_is_refused() -> None:
    model = Dropped().eval().requires_grad_(False)
    with pytest.raises(LoralithError, match="no parameter of the model is trained"):
        capture_step(model, mean_square(model), {"x": torch.randn(4, 8)})


def test_a_batch_of_another_shape_is_refused_before_anything_is_computed(step) -> None:
    _, _, batch, capture, lowered = step
    with pytest.raises(LoralithError, match=r"noise is \[2, 1, 8, 9\]; the step was compiled for \[2, 1, 8, 8\]"):
        host_inputs(capture, lowered, {**batch, "noise": torch.zeros(2, 1, 8, 9)})
    with pytest.raises(LoralithError, match="condition is missing"):
        host_inputs(capture, lowered, {name: tensor for name, tensor in batch.items() if name != "condition"})


def test_a_graph_refuses_what_cannot_be() -> None:
    graph = Graph()
    x = graph.add(Node("x", Op.INPUT, Kind.WORD, (2, 3)))
    with pytest.raises(GraphError, match="x stands in the graph already"):
        graph.add(x)
    with pytest.raises(GraphError, match="no node 'y'"):
        graph.add(Node("z", Op.EXP2, Kind.WORD, (2, 3), ("y",)))
    with pytest.raises(GraphError, match="z: matmul takes int8, and x is word"):
        graph.add(Node("z", Op.MATMUL, Kind.SUM, (2, 2), ("x", "x")))
    with pytest.raises(GraphError, match="z: add takes 2 inputs, not 1"):
        graph.add(Node("z", Op.ADD, Kind.WORD, (2, 3), ("x",)))
    with pytest.raises(GraphError, match="z: scale needs limit"):
        graph.add(Node("z", Op.SCALE, Kind.WORD, (), ("x",)))
    with pytest.raises(GraphError, match="x: no value was given for it"):
        list(interpret(graph, {}, 0, 0))
    with pytest.raises(GraphError, match=r"x must be \[2, 3\], not \[3, 2\]"):
        list(interpret(graph, {"x": torch.zeros(3, 2)}, 0, 0))


def test_four_neighbours_along_the_lanes_share_a_hash() -> None:
    key = hash_key(1, 2, 3)
    last = draw_bytes((3, 8), 1, key)
    assert_same_values(draw_bytes((8, 3), 0, key), last.T)
    # Row 1 of eight lanes has hashes 2 and 3, lowest byte first.
    assert last[1].tolist() == [hash32(key, index) >> 8 * byte & 0xFF for index in (2, 3) for byte in range(4)]
    # A tensor of more lanes begins with the same bytes in its first row.
    assert_same_values(draw_bytes((1, 4), 1, key)[0], last[0, :4])
    assert len(set(draw_bytes((64, 64), 1, key).flatten().tolist())) == 256
