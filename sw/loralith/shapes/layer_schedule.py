"""One LoRA layer's schedule by the cycle model: the plans that were tried, what limits the chosen one, and its timeline."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from loralith.compiler.cycles import Timeline, model
from loralith.compiler.schedules.training_step import Linear, compile_step, parts_for, place, tried_plans
from loralith.shapes.measured_run import fixed_os_cycles
from loralith.spec.config import Config

__all__ = ["layer_schedule", "trace_events"]

SHOWN = 6
"""Plans of a pass: the chosen one and the runners-up."""


def layer_schedule(linear: Linear, config: Config) -> tuple[dict[str, Any], Timeline]:
    """Figures of the layer's forward and backward passes as one list, and the modelled timeline of that list.

    Shares are of the modelled cycles: ``array_steps`` of those in which the array steps, ``read_channel`` and ``write_channel`` of those
    with a word on the bus, ``utilization`` of all multipliers. ``passes`` has the plans of each pass, the chosen one first.
    Raises DoesNotFit where no block fits the scratchpads.
    """
    tensors, _ = place(linear, 0, config)
    commands = compile_step([(linear, tensors)], config)
    timeline = model(commands, config)
    figures: dict[str, Any] = {
        "config": config.name,
        "layer": {"tokens": linear.T, "inputs": linear.I, "outputs": linear.O, "rank": linear.rank, "dx": linear.dx},
        "macs": linear.macs,
        "commands": len(commands),
        "modelled_cycles": timeline.cycles,
        "utilization": linear.macs / (timeline.cycles * config.rows * config.cols),
        "array_steps": timeline.busy / timeline.cycles,
        "read_channel": timeline.read_words / timeline.cycles,
        "write_channel": timeline.write_words / timeline.cycles,
        "fixed_os_cycles": fixed_os_cycles(linear, config),
        "passes": {name: _plans(linear, backward, config) for name, backward in (("forward", False), ("backward", True))},
    }
    figures["limit"] = _limit(figures)
    return figures, timeline


def _plans(linear: Linear, backward: bool, config: Config) -> list[dict[str, Any]]:
    rows = tried_plans(replace(linear, name=""), backward, config, parts_for(linear.rank)[0])
    return [{**vars(plan), "cycles_per_token": round(cycles, 2)} for cycles, plan in rows[:SHOWN]]


def _limit(figures: dict[str, Any]) -> str:
    """In words: what stands between this schedule and the whole array."""
    shares = {"array": figures["array_steps"], "read channel": figures["read_channel"], "write channel": figures["write_channel"]}
    name = max(shares, key=lambda key: shares[key])
    if name == "array":
        lost = figures["array_steps"] - figures["utilization"]
        waits = 1 - figures["array_steps"]
        return f"the array: {waits:.1%} of the cycles it waits, and {lost:.1%} are steps on padding of tokens, columns and rank"
    return f"the {name}, in use in {shares[name]:.1%} of the cycles"


def trace_events(timeline: Timeline) -> dict[str, Any]:
    """The timeline in Chrome's trace format, which Perfetto opens: complete events, a track per unit, a microsecond for a cycle."""
    names = {"LOAD": 1, "COMPUTE": 2, "STORE": 3}
    events: list[dict[str, Any]] = [
        {"ph": "M", "pid": 1, "tid": tid, "name": "thread_name", "args": {"name": name.lower()}} for name, tid in names.items()
    ]
    for activity in timeline.activities:
        events.append(
            {
                "ph": "X",
                "pid": 1,
                "tid": names[activity.opcode.name],
                "ts": activity.start,
                "dur": max(activity.end - activity.start, 1),
                "name": activity.note or activity.opcode.name.lower(),
                "args": {"command": activity.command, "ready but for tokens": activity.ready},
            }
        )
    return {"traceEvents": events, "displayTimeUnit": "ms"}
