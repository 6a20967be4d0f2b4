"""Two whole training steps of a tiny U-Net, optimizer included, on the RTL: one list for both, and the graph's bits.

`pytest -m slow -s tests/sw/test_step_rtl.py` prints the figures of docs/step.md.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn import functional

from helpers.same_values import assert_same_values
from helpers.tiny_unet import CONFIG as UNET
from loralith.compiler.cycles import model
from loralith.compiler.lists.command_list import CommandList
from loralith.compiler.proof.checker import check
from loralith.compiler.step.estimate import BETWEEN, estimate
from loralith.compiler.tokens.sync import synchronize
from loralith.device import open_device
from loralith.diffusion.unet import new_unet
from loralith.spec.commands import COMMAND_BYTES, Opcode
from loralith.spec.config import PRESETS
from loralith.spec.graph import Op
from loralith.spec.step import StepScheme
from loralith.step.capture import capture_step
from loralith.step.host import frozen_values, host_inputs, to_words
from loralith.step.lowering import lower
from loralith.step.optimizer import AdamW, with_adamw
from loralith.step.program import StepProgram
from loralith.verif.graph import interpret

pytestmark = pytest.mark.slow
CONFIG = replace(PRESETS["tiny"], name="tiny-lanes", vector_lanes=4)
SEED = 5


def small_step() -> tuple[Any, Any, AdamW]:
    """(graph with AdamW, values by node, optimizer) of a U-Net of two levels with adapters on its attention, batch 2."""
    torch.manual_seed(0)
    unet = new_unet(UNET)
    unet.requires_grad_(False)
    model = get_peft_model(unet, LoraConfig(r=4, target_modules=["to_q", "to_k", "to_v", "to_out.0"])).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.02)
            parameter.copy_(to_words(parameter))

    def loss(noised: Any, timesteps: Any, condition: Any, noise: Any) -> Any:
        return functional.mse_loss(model(noised, timesteps, condition).sample, noise)

    batch = {"noised": to_words(torch.randn(2, 1, 4, 4)), "timesteps": torch.randint(1000, (2,))}
    batch |= {"condition": to_words(torch.randn(2, 3, 6)), "noise": to_words(torch.randn(2, 1, 4, 4))}
    capture = capture_step(model, loss, batch)
    lowered = lower(capture, StepScheme(seed=SEED))
    optimizer = AdamW(3e-3)
    graph = with_adamw(lowered.graph, optimizer)
    given = frozen_values(capture, graph) | host_inputs(capture, lowered, batch)
    for node in graph.of(Op.STATE):
        given[node.name] = capture.parameters[node.name].detach() if node.name in capture.parameters else torch.zeros(node.shape)
    return graph, given, optimizer


def test_losses_adapters_and_moments_are_the_graphs_to_the_bit() -> None:
    """The RTL takes both steps from one submission, the reference device one after the other."""
    graph, given, optimizer = small_step()
    values = {name: value.numpy() for name, value in given.items()}
    with open_device("reference", CONFIG, memory_bytes=1 << 28) as reference, open_device("verilator", CONFIG, memory_bytes=1 << 28) as rtl:
        plain = StepProgram(reference, graph, SEED, values, values)
        program = StepProgram(rtl, graph, SEED, values, values, tokens=synchronize, most=2)
        check(CommandList.unpack(program.packed), CONFIG, programs=program.compiled.static)
        losses, batches = [], []
        for step in range(2):
            given |= {name: torch.tensor(value) for name, value in optimizer.scalars(step + 1).items()}
            batches.append({name: given[name].numpy() for name in plain.compiled.inputs})
            losses.append(plain.step(batches[-1], step))
            wanted = {node.name: value for node, value in interpret(graph, given, SEED, step)}
            assert losses[-1] == float(wanted[graph.outputs["loss"]])
            given |= {what.removeprefix("state."): wanted[name] for what, name in graph.outputs.items() if what.startswith("state.")}
        assert program.steps(batches, 0) == losses
        states = [node.name for node in graph.of(Op.STATE)]
        assert states, "nothing is trained"
        for name in states:
            for own in (plain, program):
                assert_same_values(own.state(name), given[name].numpy(), f"{name} after two steps on {type(own.device).__name__}")
        # The host writes the batch with its scalars and the key, and reads the loss.
        written = sum(view.buffer.nbytes for view in program.compiled.inputs.values()) + 8
        for own in (plain, program):
            assert own.traffic.written == 2 * written
            assert own.traffic.read == 2 * 4
        counted = rtl.last_counters
        modelled = model(CommandList.unpack(program.packed), CONFIG, programs=program.compiled.static)
        assert modelled.busy == counted.busy, "the model's array works as the RTL's"
        # Where a STORE reads the output buffer in the same cycle, an integer of a VECTOR is late; the model does not look at that.
        late = counted.vector_busy - modelled.vector
        assert 0 <= late <= counted.vector_busy // 10_000, "the model's vector unit works as the RTL's"
        assert abs(modelled.cycles / counted.cycles - 1) < 0.02
        work = estimate(program.compiled)
        between = BETWEEN[Opcode.VECTOR] * sum(command.opcode is Opcode.VECTOR for command in program.compiled.commands.commands)
        assert 2 * (work.of("vector") - between) == modelled.vector, "the estimate adds what lies between two commands, and no more"
        commands = program.list_bytes // COMMAND_BYTES // 2
        print(f"\n{commands:,} commands, {counted.cycles // 2:,} cycles and {counted.macs // 2:,} products a step,")
        print(
            f"array busy in {counted.busy / counted.cycles:.1%} of the cycles, vector unit in {counted.vector_busy / counted.cycles:.1%};"
        )
        print(f"by the cycle model {modelled.cycles // 2:,} cycles, {modelled.cycles / counted.cycles - 1:+.1%}")
        print(f"host: {written} bytes written and 4 read a step; {rtl.seconds:.0f} s in lists")
