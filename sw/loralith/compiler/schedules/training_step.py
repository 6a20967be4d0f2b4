"""Whole training steps as one command list: LoRA linears one after the other, forward, then backward in reverse order.

Tensors stay INT8 in DRAM between the products, as in a model that never leaves the device; dB and dA leave as INT32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain

from loralith.compiler.cycles import model
from loralith.compiler.lists.command_list import CommandList
from loralith.compiler.schedules.emit import Emitter
from loralith.compiler.schedules.gradient import Gradient, GradientSteps
from loralith.compiler.schedules.pass_plan import PassPlan, plan_passes
from loralith.compiler.schedules.passes import SKINNY_STATS_BYTES, Pass, PassSteps, interleave
from loralith.compiler.storage.layout import MatrixLayout, padded, row_major, skinny_shape
from loralith.compiler.storage.regions import DoesNotFit, Window
from loralith.compiler.tokens.order import LOOKAHEAD
from loralith.progress import Steps
from loralith.spec.config import Config
from loralith.spec.numerics import Requantization

__all__ = ["PAGE", "Linear", "Parts", "Tensors", "compile_step", "output_scale", "parts_for", "place", "step_macs", "tried_plans"]

PAGE = 4096
"""Bytes of which each tensor's address is a multiple: a burst does not cross it."""
CANDIDATES = 16
"""How many plans of a pass are tried with the cycle model."""
SAMPLE = 512
"""Tokens, at least, for which a backward pass is tried: a few blocks of its gradients."""


@dataclass(frozen=True)
class Linear:
    """A LoRA linear in a step: T tokens, I inputs, O outputs, rank r; without `dx` nothing before it is trained."""

    name: str
    T: int
    I: int
    O: int
    rank: int
    dx: bool = True

    @property
    def macs(self) -> int:
        """Useful multiply-accumulates of forward and backward."""
        T, I, O, r = self.T, self.I, self.O, self.rank
        forward = T * I * O + T * r * (I + O)
        backward = T * r * O + T * r * O + T * r * I  # dH, dB, dA
        return forward + backward + (T * O * I + T * r * I if self.dx else 0)


def step_macs(linears: Sequence[Linear]) -> int:
    """Useful multiply-accumulates of a step."""
    return sum(linear.macs for linear in linears)


@dataclass(frozen=True)
class Tensors:
    """Where a linear's tensors lie. Inputs: x, w, a, b (right operands of the skinny products), a_chain, b_chain (of the chains), dy.

    Outputs: h, y, dh, dx, db, da, stats of H and dH.
    """

    x: MatrixLayout
    w: MatrixLayout
    a: MatrixLayout
    b: MatrixLayout
    a_chain: MatrixLayout
    b_chain: MatrixLayout
    dy: MatrixLayout
    h: MatrixLayout
    y: MatrixLayout
    dh: MatrixLayout
    dx: MatrixLayout | None
    db: MatrixLayout
    da: MatrixLayout
    stats: int
    zeros: int


def place(linear: Linear, base: int, config: Config) -> tuple[Tensors, int]:
    """A linear's tensors from address `base` on, a multiple of 4096; and the first address after them."""
    T, I, O, r = linear.T, linear.I, linear.O, linear.rank
    skinny = skinny_shape(r, config)
    end = base

    def at(layout: MatrixLayout) -> MatrixLayout:
        nonlocal end
        address, end = end, end + padded(layout.nbytes + 64, PAGE)
        return layout.at(address)

    def block(nbytes: int) -> int:
        nonlocal end
        address, end = end, end + padded(nbytes, PAGE)
        return address

    tensors = Tensors(
        x=at(row_major(T, I, config)),
        w=at(row_major(O, I, config)),
        a=at(skinny.right(I, config)),
        b=at(skinny.right(O, config)),
        a_chain=at(row_major(r, I, config)),
        b_chain=at(row_major(r, O, config)),
        dy=at(row_major(T, O, config)),
        h=at(skinny.packed(T, config)),
        y=at(row_major(T, O, config)),
        dh=at(skinny.packed(T, config)),
        dx=at(row_major(T, I, config)) if linear.dx else None,
        db=at(row_major(O, r, config, 4)),
        da=at(row_major(I, r, config, 4)),
        stats=block(2 * SKINNY_STATS_BYTES),
        zeros=block(PAGE),
    )
    return tensors, end


def output_scale(k: int) -> Requantization:
    """A scale at which sums of `k` products of uniform INT8 values seldom saturate."""
    return Requantization.from_ratio(40 / (73.0 * 73.0 * k**0.5))


@dataclass(frozen=True)
class Parts:
    """Windows of the memories: passes alternate between theirs, so that the first loads of one need not wait for the last products of the
    other; so do gradients."""

    passes: tuple[Window, Window]
    gradients: tuple[Window, Window]


ALTERNATING = Parts((Window(0, 6), Window(6, 12)), (Window(12, 14), Window(14, 16)))
SHARED = Parts((Window(0, 8), Window(0, 8)), (Window(8, 16), Window(8, 16)))
"""For high ranks, whose gradients and blocks need more: passes share one part, and a pass's first loads wait for the one before it.
Gradients share the other one, and follow each other."""
HIGH_RANK = 32


def parts_for(rank: int) -> tuple[Parts, Parts]:
    """The parts to try, the better first."""
    return (SHARED, ALTERNATING) if rank >= HIGH_RANK else (ALTERNATING, SHARED)


def _forward(linear: Linear, t: Tensors) -> Pass:
    return Pass(
        left=t.x,
        base=t.w,
        base_transposed=True,
        skinny_right=t.a,
        adapter=t.b_chain,
        output=t.y,
        skinny=t.h,
        base_first=True,
        shift=0,
        requantization=output_scale(linear.I),
        stochastic=None,
        stats=t.stats,
        zeros=t.zeros,
        output_scale=output_scale(linear.I),
    )


def _backward(linear: Linear, t: Tensors) -> Pass:
    return Pass(
        left=t.dy,
        base=t.w,
        base_transposed=False,
        skinny_right=t.b,
        adapter=t.a_chain if linear.dx else None,
        output=t.dx,
        skinny=t.dh,
        base_first=True,
        shift=0,
        requantization=output_scale(linear.O),
        stochastic=None,
        stats=t.stats + SKINNY_STATS_BYTES,
        zeros=t.zeros,
        output_scale=output_scale(linear.O) if linear.dx else None,
    )


@lru_cache(maxsize=4096)
def tried_plans(linear: Linear, backward: bool, config: Config, parts: Parts, window_index: int = 0) -> tuple[tuple[float, PassPlan], ...]:
    """The plans that a plain count finds best, with the cycle model's cycles per token for a few blocks of tokens; the best one first.

    A backward pass is tried with the gradients between its blocks, whose loads compete with its own.

    ``window_index``: which window of the memories.
    """
    K, N = (linear.O, linear.I) if backward else (linear.I, linear.O)
    size = 4 if backward and not linear.dx else 1
    window = parts.passes[window_index]
    plans = plan_passes(linear.T, K, N, linear.rank, config, size, window, CANDIDATES)

    def cycles_per_token(plan: PassPlan) -> float:
        few = replace(linear, T=min(linear.T, max(4 * plan.m, SAMPLE if backward else 0)))
        tensors, _ = place(few, 0, config)
        emitter = Emitter(config)
        steps = PassSteps(emitter, (_backward if backward else _forward)(few, tensors), linear.rank, window, plan)
        gradients = [_gradient(emitter, few, tensors, name, parts) for name in ("dA", "dB")] if backward else []
        interleave(steps, *_gradient_work(gradients, parts))
        return model(emitter.finish(LOOKAHEAD), config).cycles / few.T

    tried, progress = [], Steps(f"plans of the {'backward' if backward else 'forward'} pass", len(plans))
    for plan in plans:
        tried.append((cycles_per_token(plan), plan))
        progress.step()
    return tuple(sorted(tried, key=lambda entry: entry[0]))


def _gradient(emitter: Emitter, linear: Linear, t: Tensors, name: str, parts: Parts) -> GradientSteps:
    """dB or dA of the linear."""
    left, right, out = (t.dy, t.h, t.db) if name == "dB" else (t.x, t.dh, t.da)
    right = skinny_shape(linear.rank, emitter.config).right(linear.T, emitter.config).at(right.address)
    return GradientSteps(emitter, Gradient(left, right, out), linear.rank, name, parts.gradients[name == "dA"])


def _gradient_work(gradients: Sequence[GradientSteps], parts: Parts) -> list[tuple[int, Iterator[None]]]:
    """The gradients as other work of `interleave`: beside each other, or one after the other where they share a part of the memories."""
    if parts.gradients[0] != parts.gradients[1]:
        return [(steps.units, steps.steps()) for steps in gradients]
    return [(sum(steps.units for steps in gradients), chain.from_iterable(steps.steps() for steps in gradients))]


def compile_step(work: Sequence[tuple[Linear, Tensors]], config: Config, parts: tuple[str, ...] = ("forward", "backward")) -> CommandList:
    """One list: all forwards in order, then all backwards in reverse. Raises DoesNotFit for a linear of which no block fits.

    Between the blocks of a pass come dB of the same linear, dA of the one before (which needs all of dH), and the first loads of the
    next pass.
    """
    better, other = parts_for(max(linear.rank for linear, _ in work))
    try:
        return _compile_step(work, config, parts, better)
    except DoesNotFit:
        return _compile_step(work, config, parts, other)


def _compile_step(work: Sequence[tuple[Linear, Tensors]], config: Config, parts: tuple[str, ...], windows: Parts) -> CommandList:
    emitter = Emitter(config)
    schedule = [(linear, t, _forward(linear, t), False) for linear, t in work if "forward" in parts]
    schedule += [(linear, t, _backward(linear, t), True) for linear, t in reversed(work) if "backward" in parts]
    passes = []
    for i, (linear, _, work_of_pass, backward) in enumerate(schedule):
        window_index = i % 2 if windows.passes[0] != windows.passes[1] else 0
        plan = tried_plans(replace(linear, name=""), backward, config, windows, window_index)[0][1]
        passes.append(PassSteps(emitter, work_of_pass, linear.rank, windows.passes[i % 2], plan))

    pending_da: GradientSteps | None = None
    for i, (linear, t, _, backward) in enumerate(schedule):
        gradients = [pending_da] if pending_da else []
        if backward:
            gradients.append(_gradient(emitter, linear, t, "dB", windows))
        between = _gradient_work(gradients, windows)
        if i + 1 < len(passes) and windows.passes[0] != windows.passes[1]:
            between.append((passes[i + 1].prologue_units, passes[i + 1].prologue()))
        interleave(passes[i], *between)
        pending_da = _gradient(emitter, linear, t, "dA", windows) if backward else None
    for _ in pending_da.steps() if pending_da else ():
        pass
    return emitter.finish(LOOKAHEAD)
