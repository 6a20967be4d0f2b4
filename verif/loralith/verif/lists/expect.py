"""What a case must do on any device: the oracle run over its lists."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loralith.spec.commands import COMMAND_BYTES, Opcode
from loralith.spec.status import Check, Code, Unit
from loralith.verif.lists.case import BASE, Case
from loralith.verif.lists.legal import starved
from loralith.verif.lists.oracle import Counts, Oracle
from loralith.verif.lists.oracle_checks import check_command
from loralith.verif.lists.oracle_footprint import footprint
from loralith.verif.lists.vector_state import VectorStop

__all__ = ["Ending", "Expected", "expect"]


@dataclass(frozen=True)
class Ending:
    """How a list ends. ``counts`` is None where it is stopped: how far the other units came is not defined."""

    code: Code = Code.OK
    detail: Check = Check.NONE
    unit: Unit = Unit.NONE
    command: int = 0
    address: int = 0
    counts: Counts | None = None


@dataclass(frozen=True)
class Expected:
    """The end of each list that runs, and DRAM after the last one with a mask of the bytes that are not defined."""

    endings: tuple[Ending, ...]
    dram: np.ndarray
    unknown: np.ndarray


def expect(case: Case) -> Expected:
    """A case ends with the first list that a check, a fault of the vector unit or the watchdog stops; what any command of that list stores
    to is then not defined. Raises Unspecified where the pages do not say what a VECTOR does."""
    window = (BASE + case.window[0], BASE + case.window[1])
    oracle = Oracle(case.config, BASE, case.image())
    endings = []
    for index, commands in enumerate(case.lists):
        data, place = case.packed(index), case.place(index)
        oracle.dram.data[place : place + len(data)] = np.frombuffer(data, np.uint8)
        oracle.begin()
        if starved(commands):
            endings.append(Ending(Code.WATCHDOG))
            _forget_stores(case, index, oracle)
            return Expected(tuple(endings), oracle.dram.data, oracle.dram.unknown)
        for i, command in enumerate(commands):
            refusal = check_command(data[COMMAND_BYTES * i : COMMAND_BYTES * (i + 1)], case.config, window)
            if refusal is not None:
                endings.append(Ending(refusal.code, refusal.detail, refusal.unit, i, refusal.address))
                _forget_stores(case, index, oracle)
                return Expected(tuple(endings), oracle.dram.data, oracle.dram.unknown)
            try:
                oracle.execute(command, BASE + place + COMMAND_BYTES * i)
            except VectorStop as stop:
                endings.append(Ending(stop.code, stop.detail, stop.unit, i, stop.number))
                _forget_stores(case, index, oracle)
                return Expected(tuple(endings), oracle.dram.data, oracle.dram.unknown)
        endings.append(Ending(counts=oracle.counts))
    return Expected(tuple(endings), oracle.dram.data, oracle.dram.unknown)


def _forget_stores(case: Case, index: int, oracle: Oracle) -> None:
    W, words_in_all = case.config.bus_bytes, oracle.dram.unknown.size // case.config.bus_bytes
    for command in (c for c in case.lists[index] if c["opcode"] == Opcode.STORE):
        for memory, words, _ in footprint(command, case.config, BASE).writes:
            if memory == "dram":
                bits = np.frombuffer(words.to_bytes(words_in_all // 8, "little"), np.uint8)
                touched = np.unpackbits(bits, bitorder="little").astype(bool)
                oracle.dram.unknown |= np.repeat(touched, W)
