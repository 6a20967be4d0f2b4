"""Two whole training steps of a tiny U-Net, optimizer included, on the RTL: one list each, and the graph's bits.

`pytest -m slow -s tests/sw/test_step_rtl.py` prints the figures of docs/step.md.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn import functional

from helpers.tiny_unet import CONFIG as UNET
from loralith.compiler.cycles import model
from loralith.compiler.lists.command_list import CommandList
from loralith.compiler.proof.checker import check
from loralith.compiler.step.estimate import estimate
from loralith.compiler.tokens.sync import synchronize
from loralith.device import open_device
from loralith.diffusion.unet import new_unet
from loralith.spec.commands import COMMAND_BYTES
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
    graph, given, optimizer = small_step()
    values = {name: value.numpy() for name, value in given.items()}
    with open_device("reference", CONFIG, memory_bytes=1 << 28) as reference, open_device("verilator", CONFIG, memory_bytes=1 << 28) as rtl:
        programs = [
            StepProgram(reference, graph, SEED, values, values),
            StepProgram(rtl, graph, SEED, values, values, tokens=synchronize),
        ]
        check(CommandList.unpack(programs[1].packed), CONFIG, programs=programs[1].compiled.static)
        for step in range(2):
            given |= {name: torch.tensor(value) for name, value in optimizer.scalars(step + 1).items()}
            inputs = {name: given[name].numpy() for name in programs[0].compiled.inputs}
            losses = [program.step(inputs, step) for program in programs]
            wanted = {node.name: value for node, value in interpret(graph, given, SEED, step)}
            assert losses == [float(wanted[graph.outputs["loss"]])] * 2
            states = {what.removeprefix("state."): wanted[name] for what, name in graph.outputs.items() if what.startswith("state.")}
            assert states, "nothing is trained"
            for program in programs:
                for name, value in states.items():
                    assert np.array_equal(program.state(name), value.numpy()), f"{name} after step {step} on {program.device.config.name}"
            given |= states
        # The host writes the batch with its scalars and the key, and reads the loss.
        written = sum(view.buffer.nbytes for view in programs[1].compiled.inputs.values()) + 8
        assert programs[1].traffic.written == 2 * written
        assert programs[1].traffic.read <= 2 * rtl.config.bus_bytes
        counted = rtl.last_counters
        modelled = model(CommandList.unpack(programs[1]._list), CONFIG, programs=programs[1].compiled.static)
        assert (modelled.vector, modelled.busy) == (counted.vector_busy, counted.busy), "the model's units work as the RTL's"
        assert abs(modelled.cycles / counted.cycles - 1) < 0.04
        work = estimate(programs[1].compiled)
        assert counted.vector_busy < work.of("vector") < 1.03 * counted.vector_busy
        print(f"\n{programs[1].list_bytes // COMMAND_BYTES:,} commands, {counted.cycles:,} cycles and {counted.macs:,} products a step,")
        print(
            f"array busy in {counted.busy / counted.cycles:.1%} of the cycles, vector unit in {counted.vector_busy / counted.cycles:.1%};"
        )
        print(f"by the cycle model {modelled.cycles:,} cycles, {modelled.cycles / counted.cycles - 1:+.1%}")
        print(f"host: {programs[1].traffic.written // 2} bytes written and {programs[1].traffic.read // 2} read a step")
