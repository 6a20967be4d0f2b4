"""Everything of the vector unit: beside the bus side and the compute unit."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, ResetInserter
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from loralith.rtl.interfaces import IntegerReadSignature, vector_ports
from loralith.rtl.reset import LocalReset
from loralith.spec.config import Config

from .control import VectorControl
from .integer_reader import IntegerReader
from .unit import VectorUnit
from .vector_memory import VectorMemory

__all__ = ["VectorSide"]


class VectorSide(wiring.Component):
    """Runs VECTOR commands on the memories that it owns, and lets LOAD and STORE at these.

    Parameter: config, with vector lanes.

    Members:
        reset: clears all registers, not the contents of memories; two cycles later.
        integers: the output buffer's INT32 words.
        and those of ``vector_ports``.

    Attributes:
        store_delay: cycles from a word that ``vector_store`` asks for to that word on ``vector_stored``.
    """

    store_delay = VectorMemory.delay

    def __init__(self, config: Config) -> None:
        self._config = config
        ports = {name: member.flip() for name, member in vector_ports(config).items()}
        super().__init__({"reset": In(1), "integers": Out(IntegerReadSignature(config))} | ports)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        control, reader = VectorControl(config), IntegerReader(config)
        integer_words = config.out_bytes // (4 * config.vector_lanes)
        unit = VectorUnit(config.vector_lanes, (config.v0_words, config.v1_words), integer_words)
        for name, block in {"control": control, "unit": unit, "reader": reader}.items():
            m.submodules[f"{name}_reset"] = reset = LocalReset()
            m.d.comb += reset.i.eq(self.reset)
            m.submodules[name] = ResetInserter(reset.o)(block)
        connect(m, flipped(self.vector_commands), control.commands)
        connect(m, flipped(self.vector), control.control)
        connect(m, control.fault, flipped(self.vector_fault))
        connect(m, control.wait, flipped(self.vector_wait))
        connect(m, control.signal, flipped(self.vector_done))
        connect(m, flipped(self.key_write), control.key_write)
        connect(m, control.command, unit.command)
        connect(m, reader.read, flipped(self.integers))
        connect(m, reader.o, unit.integers)
        connect(m, unit.fetch, reader.request)
        m.d.comb += [
            self.vector_active.eq(control.active),
            self.vector_saturations.eq(unit.clipped),
            unit.stop.eq(control.stop),
            reader.stop.eq(control.stop),
            control.progress.eq(unit.progress),
            control.done.eq(unit.done),
            control.unit_fault.eq(unit.fault),
            control.unit_code.eq(unit.fault_code),
            control.unit_detail.eq(unit.fault_detail),
            control.unit_instruction.eq(unit.fault_instruction),
            reader.clear.eq(unit.begin),
        ]
        self._memories(m, unit)
        return m

    def _memories(self, m: Module, unit: VectorUnit) -> None:
        """LOAD's writes and STORE's reads, each to the memory that it names."""
        load, store = self.vector_load, self.vector_store
        connect(m, flipped(self.scalar_write), unit.scalar_write)
        m.d.comb += [
            unit.program_write.eq(self.program_write.en),
            unit.program_address.eq(self.program_write.address),
            unit.program_data.eq(self.program_write.data),
            unit.scalar_read.eq(self.scalar_read.address),
            self.scalar_read.data.eq(unit.scalar_read_data),
        ]
        for number, (writes, reads) in enumerate(((unit.load0, unit.store0), (unit.load1, unit.store1))):
            m.d.comb += [
                writes.valid.eq(load.valid & (load.payload.memory == number)),
                writes.payload.address.eq(load.payload.address),
                writes.payload.data.eq(load.payload.data),
                reads.valid.eq(store.valid & (store.payload.memory == number)),
                reads.payload.eq(store.payload.address),
            ]
            with m.If(load.payload.memory == number):
                m.d.comb += load.ready.eq(writes.ready)
            with m.If(store.payload.memory == number):
                m.d.comb += store.ready.eq(reads.ready)
        m.d.comb += [
            self.vector_stored.valid.eq(unit.stored0 | unit.stored1),
            self.vector_stored.data.eq(Mux(unit.stored1, unit.read_data1, unit.read_data0)),
        ]
