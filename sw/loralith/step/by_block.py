"""What a whole training step costs on a device, from lists of its distinct blocks: pieces of the step's graph, each compiled once.

The sum over all pieces is more than the cycle model has for one list of the whole step: nothing runs at the same time on both sides of a
cut, and each piece loads its scalars and programs anew.
"""

from __future__ import annotations

import gc
import hashlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from loralith.compiler.cycles import Timeline
from loralith.compiler.step.compiled_step import CompiledStep
from loralith.compiler.step.cuts import Piece, cut
from loralith.compiler.step.estimate import estimate, modelled
from loralith.compiler.step.layouts import LaneDimensions
from loralith.compiler.step.pending import readers_of
from loralith.compiler.step.pieces import (
    BufferLayout,
    Layouts,
    ResultLayout,
    Structure,
    ViewLayout,
    alignment_copies,
    structure_of,
    write_tiles,
)
from loralith.compiler.step.samples import DIVISORS, sampled
from loralith.compiler.step.waits import waits
from loralith.compiler.tokens.sync import synchronize
from loralith.errors import LoralithError
from loralith.files import write_json
from loralith.progress import tell
from loralith.spec.commands import COMMAND_BYTES
from loralith.spec.config import Config
from loralith.spec.graph import Graph, Op
from loralith.state_file import read_state

__all__ = ["Block", "PieceRunner", "blocks_of", "graph_macs", "rows_of", "step_by_block"]


PieceRunner = Callable[[str], tuple[int, int] | None]
"""Runs a piece's structure on a device; see `step_by_block`."""
LONG = 10_000
"""Cycles of a piece from which the start of its list, some hundred cycles that the model leaves out, is no part of the model's error."""


@dataclass
class Block:
    """A distinct piece: its structure, how often the step has it, the torch operators of the first one, and its figures."""

    structure: Structure
    count: int
    first: str
    figures: dict[str, Any] = field(default_factory=dict)


def graph_macs(graph: Graph) -> int:
    """Multiply-accumulates of the products, without padding."""
    total = 0
    for node in graph.nodes.values():
        if node.op is Op.MATMUL:
            total += math.prod(node.shape) * graph[node.inputs[0]].shape[-1]
        elif node.op in (Op.CONVOLUTION, Op.CONVOLUTION_INPUT):
            x, w = (graph[name] for name in node.inputs)
            pixels = node.shape if node.op is Op.CONVOLUTION else x.shape
            total += math.prod(pixels) // pixels[1] * math.prod(w.shape)
    return total


def blocks_of(
    graph: Graph, config: Config, known: Mapping[str, Any], done: Callable[[str, dict[str, Any]], None], sample: int = 0
) -> dict[str, Block]:
    """The distinct pieces of ``graph`` by their keys. ``known``: figures of earlier calls by key; ``done`` takes new ones as they come.
    ``sample``: see `step_by_block`.

    Raises LoralithError for a piece that does not fit, naming its operators.
    """
    lanes = LaneDimensions(graph, readers_of(graph))
    layouts, found = Layouts(), {}
    figures = dict(known)
    pieces = cut(graph)

    def take(structure: Structure, number: int, where: str) -> ResultLayout:
        if structure.key not in figures:
            try:
                figures[structure.key] = _figures(structure, config, sample)
            except LoralithError as error:
                raise type(error)(f"{where}: {error}") from None
            done(structure.key, figures[structure.key])
            one = figures[structure.key]
            text = f"{one['commands']:,} commands, {one['cycles']:,} cycles, compiled in {one['seconds']} s"
            tell(f"{where}, piece {number} of {len(pieces)}: {text}")
        block = found.setdefault(structure.key, Block(structure, 0, where, figures[structure.key]))
        block.count += 1
        return _layout(block.figures["layout"])

    for number, piece in enumerate(pieces, 1):
        where = _where(piece)
        for name, structure in alignment_copies(graph, piece, layouts, config.bus_bytes):
            layouts.add([name], take(structure, number, f"{where}, a copy"), structure)
        structure = structure_of(graph, lanes, piece, layouts)
        layouts.add(piece.results, take(structure, number, where), structure)
    return found


def _where(piece: Piece) -> str:
    sources = list(dict.fromkeys(node.source for node in piece.nodes))
    return sources[0] if len(sources) == 1 else f"{sources[0]} to {sources[-1]}"


def _layout(data: Mapping[str, Any]) -> ResultLayout:
    results = [
        tuple(ViewLayout(b, tuple(shape), tuple(strides), offset) for b, shape, strides, offset in views) for views in data["results"]
    ]
    return ResultLayout([BufferLayout(*own) for own in data["buffers"]], results)


def _figures(structure: Structure, config: Config, sample: int) -> dict[str, Any]:
    """A piece's figures as JSON values, those of one matrix of a batch that is taken apart; of one with more than ``sample`` commands from
    shorter lists (0: never)."""
    began = time.monotonic()
    with _uncollected():
        piece, layout = write_tiles(structure.text, config)
        tiles = piece.e.tiles
        if sample and sum(len(tile.drafts) for tile in tiles) > sample:
            work = _linear(*(_work(piece.listed(0, sampled(tiles, divisor))) for divisor in DIVISORS))
        else:
            work = _work(piece.listed(0, tiles))
    return {
        **work,
        "memory_bytes": piece.e.memory.peak,
        "seconds": round(time.monotonic() - began, 2),
        "layout": {"buffers": [list(b) for b in layout.buffers], "results": layout.results},
    }


def _linear(one: Any, other: Any) -> Any:
    """What the whole gives, of what 1 / DIVISORS[0] and 1 / DIVISORS[1] of it give, number by number; what adds up goes on adding up."""
    if isinstance(other, Mapping):
        return {name: _linear(one.get(name, 0), value) for name, value in other.items()}
    small, large = DIVISORS
    return max(0, round(one + (other - one) * (1 - 1 / small) / (1 / large - 1 / small)))


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the collector of cycles, which a fifth of the time would go to."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _work(step: CompiledStep) -> dict[str, Any]:
    commands = synchronize(step.commands, step.config, step.static)
    timeline = modelled(commands, step) if commands.commands else Timeline()
    return {
        "cycles": timeline.cycles,
        "commands": len(commands.commands),
        "kinds": {name: dict(vars(costs)) for name, costs in estimate(step).kinds.items()},
        "waits": {unit: dict(vars(idle)) for unit, idle in waits(timeline, step.works).items()},
    }


def _code() -> str:
    """A hash of what writes and models lists, so that figures of another compiler are not taken for this one's."""
    found = hashlib.sha256()
    for package in ("loralith.compiler", "loralith.spec"):
        for path in sorted(Path(import_module(package).__path__[0]).rglob("*.py")):
            found.update(path.read_bytes())
    return found.hexdigest()[:16]


def step_by_block(
    graph: Graph,
    config: Config,
    settings: Mapping[str, Any],
    state: Path | None = None,
    sample: int = 0,
    run: PieceRunner | None = None,
) -> tuple[dict[str, Any], dict[str, Block]]:
    """(JSON values of the whole step, its distinct blocks). ``settings`` of the model are those of ``state``, a file that the figures of
    pieces go to as they come and from which a later call goes on. ``sample``: of a piece with more commands than that, long kernels are
    compiled and modelled in parts, and the figures go on from there in a line (`loralith.compiler.step.samples`); 0: of none. ``run`` takes
    the structures of pieces that it runs, those of the fewest cycles first, and gives (cycles, elements that were compared), or None when
    it runs no more."""
    own = {**settings, "config": asdict(config), "nodes": len(graph.nodes), "sample": sample, "code": _code()}
    kept = read_state(state, "`bench step`", own, {"pieces": dict}) or {**own, "pieces": {}}

    def done(key: str, figures: dict[str, Any]) -> None:
        kept["pieces"][key] = figures
        if state is not None:
            write_json(kept, state)

    began = time.monotonic()
    blocks = blocks_of(graph, config, kept["pieces"], done, sample)
    if run is not None:
        _run(blocks, run, done)
    total = _total(blocks, config, graph_macs(graph)) | {"sample": sample}
    total["compile_seconds"] = round(time.monotonic() - began, 1)
    return total, blocks


def _run(blocks: Mapping[str, Block], run: PieceRunner, done: Callable[[str, dict[str, Any]], None]) -> None:
    """Runs what has not run yet; the figures of a piece then have ``measured``, its cycles and elements."""
    waiting = [(key, block) for key, block in blocks.items() if "measured" not in block.figures]
    for number, (key, block) in enumerate(sorted(waiting, key=lambda pair: pair[1].figures["cycles"]), 1):
        try:
            found = run(block.structure.text)
        except LoralithError as error:
            raise type(error)(f"{block.first}: {error}") from None
        if found is None:
            return
        cycles, elements = found
        block.figures["measured"] = {"cycles": cycles, "elements": elements}
        done(key, block.figures)
        text = f"{cycles:,} cycles, {block.figures['cycles']:,} by the model, {elements:,} elements equal"
        tell(f"{block.first}, piece {number} of {len(waiting)} that are to run: {text}")


def _measured(blocks: Mapping[str, Block], cycles: int) -> dict[str, Any]:
    """The share of ``cycles`` that pieces which ran stand for, what those took instead, their number, the model's error of their sum,
    and the largest one among those of at least LONG cycles."""
    ran = [block for block in blocks.values() if "measured" in block.figures]
    own = sum(block.count * block.structure.times * block.figures["cycles"] for block in ran)
    real = sum(block.count * block.structure.times * block.figures["measured"]["cycles"] for block in ran)
    found = [(block.figures["cycles"], block.figures["measured"]["cycles"]) for block in ran]
    errors = [modelled / measured - 1 for modelled, measured in found if measured >= LONG]
    return {
        "measured_cycles_share": own / max(1, cycles),
        "measured_cycles": real,
        "model_error_of_sum": own / real - 1 if real else 0.0,
        "measured_pieces": len(ran),
        "measured_elements": sum(block.figures["measured"]["elements"] for block in ran),
        "model_error": max(errors, key=abs, default=0.0),
    }


def _total(blocks: Mapping[str, Block], config: Config, macs: int) -> dict[str, Any]:
    kinds: dict[str, Counter[str]] = {}
    idle: dict[str, Any] = {}
    cycles = commands = 0
    for block in blocks.values():
        times, one = block.count * block.structure.times, block.figures
        cycles += times * one["cycles"]
        commands += times * one["commands"]
        for kind, costs in one["kinds"].items():
            own = kinds.setdefault(kind, Counter())
            own.update({name: times * value for name, value in costs.items()})
        for unit, what in one["waits"].items():
            sums = idle.setdefault(unit, {"working": 0, "tokens": Counter(), "list": 0, "end": 0})
            for name in ("working", "list", "end"):
                sums[name] += times * what[name]
            sums["tokens"].update({kind: times * value for kind, value in what["tokens"].items()})
    names = ("commands", "elements", "macs", "load", "store", "array", "vector")
    units = {name: sum(costs[name] for costs in kinds.values()) for name in names}
    return {
        "config": config.name,
        "lanes": config.vector_lanes,
        "macs": macs,
        "cycles": cycles,
        "utilization": macs / (cycles * config.processing_elements),
        "commands": commands,
        "list_bytes": COMMAND_BYTES * commands,
        **_measured(blocks, cycles),
        "pieces": sum(block.count for block in blocks.values()),
        "distinct_pieces": len(blocks),
        "elements": units["elements"],
        "padded_macs": units["macs"],
        **{name: units[name] for name in ("load", "store", "array", "vector")},
        "kinds": {kind: dict(costs) for kind, costs in kinds.items()},
        "waits": {unit: {**what, "tokens": dict(what["tokens"])} for unit, what in idle.items()},
    }


def rows_of(blocks: Mapping[str, Block], config: Config) -> list[dict[str, Any]]:
    """Each distinct block as a row, the one that takes most of the step's cycles first."""
    rows = []
    for key, block in blocks.items():
        times, one = block.count * block.structure.times, block.figures
        macs = sum(costs["macs"] for costs in one["kinds"].values())
        busy = {unit: sum(costs[unit] for costs in one["kinds"].values()) for unit in ("load", "store", "array", "vector")}
        share = macs / (one["cycles"] * config.processing_elements) if one["cycles"] else 0.0
        rows.append({"piece": key, "operators": block.first, "times": times, "cycles": one["cycles"], "array_used": share, **busy})
    return sorted(rows, key=lambda row: -row["times"] * row["cycles"])
