"""Cross attention's keys and values: linears that all read one text, as one command list with the tokens on the columns.

A text has few tokens, 77 say, which would fill 2 blocks of 64 rows to three fifths. On the columns they are cut in two: whole tiles at
fold 1, and what is left over at the fold whose tiles it just fills. So the operands swap sides,

    Y^T [O, T] = W [O, I] X^T + B [O, r] H^T        store transposed

and X stays on chip for all the linears: transposed for H, on the right for Y, natural for dA. H = X A^T of every linear comes first, as
nothing but the text and A are needed for it; then the outputs; then, in reverse order, dH, dB and, two linears later, dA. dY comes over
the bus once: transposed on the left for dH = dY B, natural on the right for dB^T = H^T dY.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from loralith.compiler.lists.command_list import CommandList
from loralith.compiler.schedules.emit import Emitter, Int8, Segment
from loralith.compiler.schedules.matmul import SlotCache
from loralith.compiler.schedules.passes import SKINNY_STATS_BYTES
from loralith.compiler.schedules.training_step import Linear, output_scale
from loralith.compiler.storage.layout import MatrixLayout, fold_right, folded_shape, operand_bytes, padded, row_major, skinny_shape
from loralith.compiler.storage.regions import DoesNotFit, Region, Regions, rows_needed
from loralith.spec.config import Config

__all__ = ["Columns", "Text", "TextTensors", "compile_text", "place_text", "text_columns"]

PAGE = 4096
LOAD_LOOKAHEAD = 32
"""How many other commands a load may overtake: the backward's first loads come under the last outputs."""
DA_DELAY = 2
"""Linears between dH and dA, so that the load unit need not wait for dH in DRAM."""
STAT_SLOTS = 8


@dataclass(frozen=True)
class Columns:
    """How T tokens lie on the columns: `main` of them at fold 1, then `rest` at `fold`."""

    main: int
    rest: int
    fold: int


def text_columns(T: int, rank: int, config: Config) -> Columns:
    """Whole tiles, and the rest at the largest fold that takes it in one tile; all in tiles where nothing is gained.

    The fold divides a rank above it: H^T, which the load unit folds, has no zeros behind its last row.
    """
    main = T - T % config.cols
    rest = T - main
    folds = [fold for fold in config.folds if config.cols // fold >= rest and (rank < fold or rank % fold == 0)]
    if not main or not rest or folds[-1] == 1 or config.cols % config.bus_bytes:
        return Columns(T, 0, 1)
    return Columns(main, rest, folds[-1])


@dataclass(frozen=True)
class Text:
    """What the linears share: x [T, I], how its tokens lie on the columns, and the image of the last ones as folded right operand."""

    x: MatrixLayout
    columns: Columns
    rest: MatrixLayout

    def rest_image(self, x: np.ndarray, config: Config) -> np.ndarray:
        """The bytes of `rest` for INT8 x [T, I]."""
        return fold_right(np.ascontiguousarray(x[self.columns.main :].T), self.columns.fold, config)


@dataclass(frozen=True)
class TextTensors:
    """One linear's tensors. Inputs: w, a and b (right operands of the skinny products), b_chain [r, O], dy. The rest are results.

    h_transposed [r, T] is H^T, and h_rest [r, C / fold] its last columns, packed: right operands of the chain, and left one of dB^T. dh are
    packed rows. db is dB^T [r, O], da is dA^T [I, r].
    """

    w: MatrixLayout
    a: MatrixLayout
    b: MatrixLayout
    b_chain: MatrixLayout
    dy: MatrixLayout
    h_transposed: MatrixLayout
    h_rest: MatrixLayout
    y: MatrixLayout
    dh: MatrixLayout
    db: MatrixLayout
    da: MatrixLayout
    stats: int


def place_text(linears: Sequence[Linear], base: int, config: Config) -> tuple[Text, list[TextTensors], int]:
    """All tensors from address `base` on, a multiple of 4096; and the first address after them. Raises ValueError for several texts."""
    texts = {(linear.T, linear.I, linear.rank) for linear in linears}
    if len(texts) != 1 or any(linear.dx for linear in linears):
        raise ValueError(f"the linears must read one text before which nothing is trained, at one rank, not T, I, r = {sorted(texts)}")
    ((T, I, rank),) = texts
    columns = text_columns(T, rank, config)
    end = base

    def at(layout: MatrixLayout) -> MatrixLayout:
        nonlocal end
        address, end = end, end + padded(operand_bytes(layout, config), PAGE)
        return layout.at(address)

    def tensors_of(linear: Linear) -> TextTensors:
        O, r = linear.O, linear.rank
        skinny = skinny_shape(r, config)
        width = config.cols // columns.fold
        return TextTensors(
            w=at(row_major(O, I, config)),
            a=at(skinny.right(I, config)),
            b=at(skinny.right(O, config)),
            b_chain=at(row_major(r, O, config)),
            dy=at(row_major(T, O, config)),
            h_transposed=at(row_major(r, T, config)),
            h_rest=at(MatrixLayout(0, r, width, width if width < config.bus_bytes else padded(width, config.bus_bytes))),
            y=at(row_major(T, O, config)),
            dh=at(skinny.packed(T, config)),
            db=at(row_major(r, O, config, 4)),
            da=at(row_major(I, r, config, 4)),
            stats=at(MatrixLayout(0, 2, SKINNY_STATS_BYTES, SKINNY_STATS_BYTES)).address,
        )

    text = Text(at(row_major(T, I, config)), columns, at(row_major(*folded_shape(I, max(columns.rest, 1), columns.fold, config), config)))
    return text, [tensors_of(linear) for linear in linears], end


@dataclass(frozen=True)
class _Work:
    index: int
    linear: Linear
    tensors: TextTensors


class _Step:
    def __init__(self, emitter: Emitter, text: Text, linears: Sequence[Linear], tensors: Sequence[TextTensors]) -> None:
        self.emitter, self.config, self.text = emitter, emitter.config, text
        self.work = [_Work(i, linear, t) for i, (linear, t) in enumerate(zip(linears, tensors, strict=True))]
        self.T, self.I, self.rank = linears[0].T, linears[0].I, linears[0].rank
        self.columns, self.skinny = text.columns, skinny_shape(self.rank, self.config)
        self.stat = 0

    # Space.

    def _max_slots(self, regions: Regions, memory: str, lanes: int, seq: int, least: int, most: int, spare: int = 0) -> SlotCache:
        """As many regions as fit beside `spare` rows, `least`..`most`. Raises DoesNotFit."""
        rows = rows_needed(memory, lanes, seq, self.config)[0]
        return SlotCache(regions.slots(memory, lanes, seq, max(least, min(most, (regions.free_rows(memory) - spare) // rows))))

    def skinny_lanes(self) -> int:
        return self.config.cols if self.skinny.fold > 1 else self.skinny.width

    def forward_space(self) -> None:
        config, T, I, columns = self.config, self.T, self.I, self.columns
        regions = Regions(config)
        self.x_left = regions.take("left", T, I)
        self.b_lanes = min(max(layer.linear.O for layer in self.work), 8 * max(config.rows, config.bus_bytes))
        self.b_left = SlotCache(regions.slots("left", self.b_lanes, self.rank, 2))
        self.w_lanes = max(config.rows, config.bus_bytes)
        self.w_left = self._max_slots(regions, "left", self.w_lanes, I, 2, 6)
        self.x_main = regions.take("right", columns.main, I)
        self.x_rest = regions.take("right", config.cols, -(-I // columns.fold)) if columns.rest else None
        self.h_main = SlotCache(regions.slots("right", columns.main, self.rank, 3))
        self.h_rest = SlotCache(regions.slots("right", config.cols, -(-self.rank // columns.fold), 3)) if columns.rest else None
        self.a_right = SlotCache(regions.slots("right", self.skinny_lanes(), -(-I // self.skinny.fold), 3))
        self.h_out = SlotCache(regions.slots("out", T, self.skinny.width, 3))
        self.y_out = SlotCache(regions.slots("out", self.w_lanes, T, 3))
        self.forward_end = regions.mark() | {"out": 0}

    def backward_space(self) -> None:
        """The backward's first loads come while the last outputs are computed: as much as possible lies beside the forward's space."""
        config, T, I = self.config, self.T, self.I
        widest, unit = max(layer.linear.O for layer in self.work), max(config.rows, config.cols, config.bus_bytes)
        deep = padded(T, config.banks)
        out = Regions(config)
        self.dh_out = SlotCache(out.slots("out", T, self.skinny.width, 2))
        self.da_lanes = min(I, 4 * unit)
        self.da_out = self._max_slots(out, "out", self.da_lanes, 4 * self.skinny.width, 2, 3)
        # Two regions for dB^T, and no longer ones than keep the store unit busy meanwhile.
        self.db_lanes = max(unit, min(out.free_rows("out") * config.banks // 8 // unit * unit, padded(widest, unit)))
        self.db_out = self._max_slots(out, "out", self.rank, 4 * self.db_lanes, 2, 3)
        self.acc = out.take("acc", T, self.skinny.width)
        for block, start in itertools.product(range(padded(widest, self.db_lanes), 0, -self.db_lanes), (self.forward_end, None)):
            regions = Regions(config)
            if start:
                regions.release(start)
            try:
                self.x_natural = regions.take("left", I, deep)
                self.dy_tokens = SlotCache(regions.slots("left", T, block, 3))
                self.dy_outputs = SlotCache(regions.slots("right", block, deep, 3))
                self.b_right = SlotCache(regions.slots("right", self.skinny_lanes(), -(-block // self.skinny.fold), 4))
                self.h_left = SlotCache(regions.slots("left", self.rank, T, 3))
                self.dh_right = SlotCache(regions.slots("right", self.skinny_lanes(), -(-T // self.skinny.fold), 3))
            except DoesNotFit:
                continue
            break
        else:
            raise DoesNotFit(f"no block of dY, {T} tokens, fits the scratchpads of {config.name!r}")
        self.block = block

    # Forward.

    def skinny_forward(self, layer: _Work) -> None:
        """H, transposed."""
        emitter, t, skinny, rank = self.emitter, layer.tensors, self.skinny, self.rank
        out = self.h_out.replace((layer.index, 0))
        right = self.a_right.get((layer.index, 0), lambda to: emitter.load(t.a, to, note=f"A {layer.index}"))
        slot = self._slot()
        emitter.compute(
            self.T,
            rank,
            (Segment(self.x_left, right, self.I),),
            fold=skinny.fold,
            out=out,
            int8=Int8(output_scale(self.I)),
            stat_slot=slot,
            stat_clear=True,
            note=f"H {layer.index}",
        )
        emitter.store(t.h_transposed, out, transpose=True, note=f"H^T {layer.index}")
        if self.columns.rest:
            rest = Region("out", out.base + self.columns.main // self.config.rows * out.stride, out.rows, out.stride)
            emitter.store(t.h_rest, rest, transpose=True, note=f"H^T rest {layer.index}")
        emitter.store_stats(t.stats, slot, 1, note=f"statistics of H {layer.index}")

    def _slot(self) -> int:
        self.stat = (self.stat + 1) % min(STAT_SLOTS, self.config.stat_slots)
        return self.stat

    def chain(self, layer: _Work) -> tuple[Region, Region | None]:
        """H^T on the right: of the whole tiles, and of the rest."""
        t, emitter = layer.tensors, self.emitter
        h_block = t.h_transposed.block(0, self.rank, 0, self.columns.main)
        main = self.h_main.get((layer.index, 0), lambda to: emitter.load(h_block, to, note=f"H^T {layer.index}"))
        return main, self.h_rest.get((layer.index, 0), lambda to: self._load_rest(layer, to)) if self.h_rest else None

    def _load_rest(self, layer: _Work, to: Region) -> None:
        """Rows of H^T, `fold` of them to a word."""
        fold, layout = min(self.columns.fold, self.rank), layer.tensors.h_rest
        rows, word = self.rank // fold, layout.stride * fold
        self.emitter.load(MatrixLayout(layout.address, rows, word, word), to, note=f"H^T rest {layer.index}")

    def outputs(self, layer: _Work) -> Iterator[None]:
        """Y^T, a block of outputs at a time."""
        emitter, config, t, columns = self.emitter, self.config, layer.tensors, self.columns
        O, rank = layer.linear.O, self.rank
        scale = Int8(output_scale(self.I))
        for o in range(0, O, self.w_lanes):
            m = min(self.w_lanes, O - o)
            w = self.w_left.replace((layer.index, o))
            emitter.load(t.w.block(o, m, 0, self.I), w, transpose=True, note=f"W {layer.index},{o}")
            first = o // self.b_lanes * self.b_lanes
            lanes = min(self.b_lanes, O - first)
            chunk = self.b_left.get(
                (layer.index, first),
                lambda to, at=first, n=lanes: emitter.load(t.b_chain.block(0, rank, at, n), to, note=f"B {layer.index}"),
            )
            b = Region("left", chunk.base + (o - first) // config.rows * chunk.stride, chunk.rows, chunk.stride)
            main, rest = self.chain(layer)
            out = self.y_out.replace((layer.index, o))
            emitter.compute(
                m,
                columns.main,
                (Segment(w, self.x_main, self.I), Segment(b, main, rank)),
                out=out,
                int8=scale,
                note=f"Y {layer.index},{o}",
            )
            if rest is not None:
                assert self.x_rest is not None
                emitter.compute(
                    m,
                    columns.rest,
                    (Segment(w, self.x_rest, self.I), Segment(b, rest, rank)),
                    fold=columns.fold,
                    out=Region("out", out.base + columns.main // config.banks, out.rows, out.stride),
                    int8=scale,
                    note=f"Y rest {layer.index},{o}",
                )
            emitter.store(t.y.block(0, self.T, o, m), out, transpose=True, note=f"Y {layer.index},{o}")
            yield

    def forward(self) -> None:
        self.forward_space()
        emitter, x, columns = self.emitter, self.text.x, self.columns
        emitter.load(x, self.x_left, transpose=True, note="X")
        for i, layer in enumerate(self.work):
            self.skinny_forward(layer)
            if i == 0:
                emitter.load(x.block(0, columns.main, 0, self.I), self.x_main, transpose=True, note="X on the right")
                if self.x_rest:
                    emitter.load(self.text.rest, self.x_rest, note="X on the right, rest")
        for layer in self.work:
            for _ in self.outputs(layer):
                pass

    # Backward.

    def gradients(self, layer: _Work) -> Iterator[None]:
        """dH over blocks of outputs, and dB^T of each block; yields after each part of dB^T."""
        emitter, t, skinny, T, O, rank = self.emitter, layer.tensors, self.skinny, self.T, layer.linear.O, self.rank
        fold = skinny.fold
        h = self.h_left.get((layer.index, 0), lambda to: emitter.load(t.h_transposed, to, transpose=True, note=f"H^T {layer.index}"))
        out, slot = self.dh_out.replace((layer.index, 0)), self._slot()
        for o in range(0, O, self.block):
            n, last = min(self.block, O - o), o + self.block >= O
            tokens, outputs = self.dy_tokens.replace((layer.index, o)), self.dy_outputs.replace((layer.index, o))
            emitter.load_both(t.dy.block(0, T, o, n), tokens, outputs, note=f"dY {layer.index},{o}")
            b_right = self.b_right.replace((layer.index, o))
            emitter.load(t.b.block(o // fold, -(-n // fold), 0, t.b.cols), b_right, note=f"B {layer.index},{o}")
            emitter.compute(
                T,
                rank,
                (Segment(tokens, b_right, n),),
                fold=fold,
                out=out if last else None,
                int8=Int8(output_scale(O)) if last else None,
                acc=self.acc,
                acc_read=o > 0,
                acc_write=not last,
                stat_slot=slot if last else None,
                stat_clear=True,
                note=f"dH {layer.index},{o}",
            )
            for part in range(0, n, self.db_lanes):
                width = min(self.db_lanes, n - part)
                db = self.db_out.replace((layer.index, o + part))
                right = Region("right", outputs.base + part // self.config.cols * outputs.stride, 0, outputs.stride)
                emitter.compute(rank, width, (Segment(h, right, T),), out=db, note=f"dB^T {layer.index},{o + part}")
                emitter.store(t.db.block(0, rank, o + part, width), db, note=f"dB^T {layer.index},{o + part}")
                yield
        emitter.store(t.dh, out, note=f"dH {layer.index}")
        emitter.store_stats(t.stats + SKINNY_STATS_BYTES, slot, 1, note=f"statistics of dH {layer.index}")

    def gradient_a(self, layer: _Work) -> Iterator[None]:
        """dA^T = X^T dH, a part at a time."""
        emitter, t, rank = self.emitter, layer.tensors, self.rank
        right = self.skinny.right(self.T, self.config).at(t.dh.address)
        dh = self.dh_right.get((layer.index, 0), lambda to: emitter.load(right, to, note=f"dH {layer.index}"))
        for i in range(0, self.I, self.da_lanes):
            n = min(self.da_lanes, self.I - i)
            out = self.da_out.replace((layer.index, i))
            left = Region("left", self.x_natural.base + i // self.config.rows * self.x_natural.stride, 0, self.x_natural.stride)
            emitter.compute(n, rank, (Segment(left, dh, self.T),), fold=self.skinny.fold, out=out, note=f"dA {layer.index},{i}")
            emitter.store(t.da.block(i, n, 0, rank), out, note=f"dA {layer.index},{i}")
            yield

    def backward(self) -> None:
        self.backward_space()
        late: list[Iterator[None]] = []
        for i, layer in enumerate(reversed(self.work)):
            # The parts of dA, of which most is stores, between those of dB, of which most is products.
            between = late.pop(0) if i >= DA_DELAY else iter(())
            parts = -(-self.I // self.da_lanes)
            done = 0
            for n, _ in enumerate(self.gradients(layer), start=1):
                while done * -(-layer.linear.O // self.db_lanes) < n * parts:
                    next(between, None)
                    done += 1
            if i == 0:
                pad = padded(self.T, self.skinny.fold) - self.T
                self.emitter.load(self.text.x, self.x_natural, pad_rows=pad, note="X, inputs in rows")
            late.append(self.gradient_a(layer))
        for rest in late:
            for _ in rest:
                pass


def compile_text(text: Text, work: Sequence[tuple[Linear, TextTensors]], config: Config) -> CommandList:
    """One list: H of all, Y of all in order, then all backwards in reverse.

    Raises DoesNotFit where a block does not fit, or where the right scratchpad's words are shorter than the bus's.
    """
    if config.cols < config.bus_bytes:
        raise DoesNotFit(
            f"dY cannot be loaded into both scratchpads of {config.name!r}: {config.cols} columns, {config.bus_bytes} bus bytes"
        )
    emitter = Emitter(config)
    step = _Step(emitter, text, [linear for linear, _ in work], [tensors for _, tensors in work])
    step.forward()
    step.backward()
    return emitter.finish(LOAD_LOOKAHEAD)
