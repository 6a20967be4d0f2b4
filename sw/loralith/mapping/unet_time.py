"""Time and memory of a training step of a whole U-Net with random weights, in torch or attached. Each mode runs in a process of its own,
whose peak of resident memory is the mode's."""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from loralith.errors import LoralithError
from loralith.files import write_json
from loralith.state_file import read_state
from loralith.toolchain import python_module

__all__ = ["MODES", "SIZES", "cpu", "figures", "step_times"]

MODES = ("torch", "lora", "all")
"""Plain torch in FP32, `attach(modules="lora")` and `attach(modules="all")` on the `direct` device."""
SIZES: Mapping[str, dict[str, Any]] = {
    "sd15": {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
    "tiny": {"sample_size": 8, "cross_attention_dim": 16, "attention_head_dim": 2, "block_out_channels": (8, 16), "norm_num_groups": 4}
    | {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")},
}
"""What differs from the defaults of diffusers' `UNet2DConditionModel`, by name of the model."""
TEXT_TOKENS = 77
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "amx_bf16", "asimddp", "i8mm")
"""Of the CPU's flags those that decide how fast INT8 multiplies."""


def cpu() -> str:
    """The processor and what decides how fast it multiplies."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    values = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = values.get("flags", values.get("Features", "")).split()
    found = [name for name in INSTRUCTIONS if name in flags]
    return f"{values.get('model name', platform.machine())}, {', '.join(found) or 'no INT8 instructions known'}"


def step_times(model: str, mode: str, rank: int, threads: int, steps: int, originals: Path | None = None) -> dict[str, Any]:
    """Seconds of each step after the first one, on the clock and of the process's CPU, and the process's peak of resident memory in bytes.

    One image of random latents, LoRA on the attention projections, forward and backward pass without an optimizer. ``originals``: as
    `attach` has it. To be called once in a process.
    """
    import torch
    from diffusers import UNet2DConditionModel
    from peft import LoraConfig, inject_adapter_in_model
    from threadpoolctl import threadpool_limits

    from loralith.device import open_device
    from loralith.mapping.attach_model import attach

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    unet: Any = UNet2DConditionModel(**SIZES[model])
    unet.requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS, init_lora_weights=False), unet)
    config = unet.config
    latents = torch.randn(1, config.in_channels, config.sample_size, config.sample_size)
    text = torch.randn(1, TEXT_TOKENS, config.cross_attention_dim)
    with ExitStack() as stack:
        stack.enter_context(threadpool_limits(threads))
        if mode != "torch":
            attach(unet, stack.enter_context(open_device("direct", "base")), modules=mode, originals=originals)
        clock, process, losses = [], [], []
        for _ in range(steps + 1):
            start = time.perf_counter(), time.process_time()
            loss = unet(latents, torch.tensor([500]), text).sample.square().mean()
            loss.backward()
            clock.append(round(time.perf_counter() - start[0], 3))
            process.append(round(time.process_time() - start[1], 3))
            losses.append(loss.item())
            unet.zero_grad()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return {"seconds": clock[1:], "cpu_seconds": process[1:], "first_seconds": clock[0], "peak_bytes": peak, "loss": losses[0]}


def figures(
    model: str,
    rank: int,
    threads: int,
    rounds: int,
    steps: int,
    state: Path | None,
    say: Callable[[str], None],
    originals: Path | None = None,
) -> dict[str, Any]:
    """`step_times` of every mode, one after the other, ``rounds`` times, so that what else the machine does falls on all alike; medians.

    ``state``: a file with what has been measured, which is not measured again. ``originals``: of the attached modes. Raises LoralithError
    for a state of other settings, and where a mode fails.
    """
    settings = {"model": model, "rank": rank, "threads": threads, "steps": steps, "cpu": cpu()}
    settings["originals"] = "memory" if originals is None else "file"
    empty: dict[str, list[dict[str, Any]]] = {mode: [] for mode in MODES}
    kept = read_state(state, "`bench unet`", settings, {"done": dict})
    done = empty | kept["done"] if kept else empty
    for number in range(rounds):
        for mode in MODES:
            if len(done[mode]) > number:
                continue
            done[mode].append(_child(model, mode, rank, threads, steps, originals))
            last = done[mode][-1]
            say(f"round {number + 1}, {mode}: {last['seconds']} s a step, peak {last['peak_bytes'] / 1e9:.2f} GB")
            if state:
                write_json({**settings, "done": done}, state)
    result: dict[str, Any] = {**settings, "rounds": rounds}
    for mode in MODES:
        runs = done[mode][:rounds]
        for name in ("seconds", "cpu_seconds"):
            result[f"{mode}_{name}"] = round(statistics.median(second for run in runs for second in run[name]), 3)
        result[f"{mode}_peak_gb"] = round(max(run["peak_bytes"] for run in runs) / 1e9, 2)
        result[f"{mode}_loss"] = runs[0]["loss"]
    for mode in MODES[1:]:
        for name in ("seconds", "cpu_seconds"):
            result[f"{mode}_{name}_over_torch"] = round(result[f"{mode}_{name}"] / result[f"torch_{name}"], 2)
    return result


def _child(model: str, mode: str, rank: int, threads: int, steps: int, originals: Path | None) -> dict[str, Any]:
    folder = [] if originals is None else ["--originals", str(originals)]
    words = python_module("loralith.mapping.unet_time", model, mode, str(rank), str(threads), str(steps), *folder)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        why = f"was ended by signal {-done.returncode}" if done.returncode < 0 else f"failed: {last[0]}"
        raise LoralithError(f"the step of {model} in mode {mode} {why}; what was measured before is kept")
    return json.loads(done.stdout.splitlines()[-1])


def _main() -> None:
    parser = argparse.ArgumentParser(description="One mode of `loralith bench unet`.")
    parser.add_argument("model")
    parser.add_argument("mode")
    for name in ("rank", "threads", "steps"):
        parser.add_argument(name, type=int)
    parser.add_argument("--originals", type=Path)
    args = parser.parse_args()
    print(json.dumps(step_times(args.model, args.mode, args.rank, args.threads, args.steps, args.originals)))


if __name__ == "__main__":
    _main()
