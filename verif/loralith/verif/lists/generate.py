"""Draws legal cases: every field of every command, over small stretches of each memory so that commands meet each other's data."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from loralith.spec.commands import SEMAPHORES, LoadTarget, Opcode
from loralith.spec.config import Config
from loralith.verif.lists.case import BASE, Case, Layout
from loralith.verif.lists.draw import Draw
from loralith.verif.lists.drawn_compute import draw_compute
from loralith.verif.lists.drawn_places import Fields, fields_of, pack
from loralith.verif.lists.drawn_tokens import TokenPlacer
from loralith.verif.lists.drawn_transfer import draw_load, draw_store
from loralith.verif.lists.drawn_vector import Programming, draw_vector
from loralith.verif.lists.drawn_vector_transfer import draw_vector_load, draw_vector_store
from loralith.verif.lists.oracle import Oracle
from loralith.verif.lists.oracle_checks import check_command
from loralith.verif.lists.probe import probes

__all__ = ["draw_timing", "generate"]


def generate(config: Config, seed: int, most: int = 40) -> Case:
    """The case of a seed: one or two lists of up to ``most`` commands each, and then some that store what the memories hold."""
    rng = np.random.default_rng(seed)
    case = Case(config, seed, ())
    layout = Layout()
    window = (BASE, BASE + layout.size)
    oracle = Oracle(config, BASE, case.image())
    programming = Programming()
    lists = []
    count = int(rng.choice([1, 1, 2]))
    for number in range(count):
        draw = Draw(config, rng, oracle)
        spare = float(rng.choice([0.0, 0.1, 0.6]))
        placer = TokenPlacer(config, BASE, rng, int(rng.integers(8, SEMAPHORES + 1)), spare, programming.data)
        programming.begin()
        length = int(rng.integers(1, most + 1))
        kinds, weights, kind = *_kinds(config, programming, rng), 0

        def add(command: Fields | None, placer: TokenPlacer = placer) -> bool:
            if command is None or not oracle.permits(command) or not placer.add(command):
                return False
            if _loads_program(command):  # what it reads is drawn now
                at = command["address"] - BASE
                oracle.dram.data[at : at + command["row_bytes"]] = np.frombuffer(programming.data[BASE + at], np.uint8)
            fault = check_command(pack(command), config, window)
            if fault:
                raise AssertionError(f"the generator drew an illegal command, {fault}: {command}")
            oracle.execute(command)
            if _loads_program(command):
                programming.loaded(command)
            return True

        for _ in range(8 * length):
            if len(placer.commands) >= length:
                break
            if draw.close and rng.random() < 0.9:
                kind = 1
            elif rng.random() < 0.6:  # else one more of the same
                kind = int(rng.choice(len(kinds), p=weights))
            add(kinds[kind](draw))
        if number == count - 1:
            for command in probes(draw, programming):
                add(command)
        if not placer.commands:
            add(fields_of(Opcode.LOAD, rows=1, row_bytes=1, address=BASE + layout.data))
        lists.append(tuple(placer.commands))
    data = tuple((address - BASE, text.hex()) for address, text in programming.data.items())
    return Case(config, seed, tuple(lists), timing=draw_timing(rng), data=data)


Kind = Callable[[Draw], Fields | None]


def _kinds(config: Config, programming: Programming, rng: np.random.Generator) -> tuple[list[Kind], np.ndarray]:
    """What draws commands, and how often; a VECTOR's program counts as one."""
    kinds: list[Kind] = [draw_load, draw_compute, draw_store]
    if not config.vector_lanes:
        return kinds, rng.dirichlet([4, 5, 2])
    kinds += [partial(draw_vector, programming=programming), draw_vector_load, draw_vector_store]
    return kinds, rng.dirichlet([2, 3, 1, 10, 4, 2])


def _loads_program(c: Fields) -> bool:
    return c["opcode"] == Opcode.LOAD and c["target"] == LoadTarget.PROGRAM


def draw_timing(rng: np.random.Generator) -> dict:
    """Latency, rates and stalls of the native memory."""
    stall = {channel: float(rng.choice([0.0, rng.uniform(0, 0.5)])) for channel in ("ar", "r", "aw", "w", "b")}
    return {
        "read_latency": int(rng.choice([1, 3, 20, 100])),
        "write_latency": int(rng.choice([1, 3, 20, 100])),
        "read_rate": float(rng.choice([1.0, 1.0, rng.uniform(0.2, 1.0)])),
        "write_rate": float(rng.choice([1.0, 1.0, rng.uniform(0.2, 1.0)])),
        "stall": stall if rng.random() < 0.6 else 0.0,
        "stall_length": int(rng.integers(1, 16)),
        "seed": int(rng.integers(1 << 32)),
    }
