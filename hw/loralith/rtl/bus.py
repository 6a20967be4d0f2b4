"""Everything between the buses and the compute side."""

from __future__ import annotations

from typing import NamedTuple

from amaranth.hdl import Module, ResetInserter
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from loralith.spec.config import Config
from loralith.spec.registers import ADDRESS_BITS, COUNTERS, ID
from loralith.spec.version import VERSION

from .axi import Axi4ReadSignature, Axi4Signature, Axi4WriteSignature, AxiLiteSignature
from .block_queue import CommandQueue, CommandWord
from .bursts import Burst
from .controller import Controller
from .counters import Counters
from .csr import Registers
from .fetch import Fetch
from .interfaces import compute_ports, vector_ports
from .load import VECTOR_WRITES, LoadUnit
from .queue import SkidBuffer
from .read_master import ReadMaster
from .reset import LocalReset
from .store import StoreUnit
from .tokens import Tokens
from .write_master import WriteMaster

__all__ = ["BusSide"]


class _Blocks(NamedTuple):
    registers: Registers
    controller: Controller
    counters: Counters
    fetch: Fetch
    tokens: Tokens
    load: LoadUnit
    store: StoreUnit
    reads: ReadMaster
    writes: WriteMaster


class BusSide(wiring.Component):
    """Registers, controller, command fetch and queues, semaphores, load and store units and the AXI masters.

    Parameters: config; write_delay: cycles from taking an ``operand`` or ``scale`` write to its bytes being readable;
    out_delay, stat_delay: cycles from a read's ``en`` to its data.

    Members:
        axi, control, irq: the chip's ports.
        reset: every register, a cycle later; those that the host sees at once. In a domain that has a reset, none is needed.
        and those of ``compute_ports`` and ``vector_ports``.
    """

    def __init__(self, config: Config, write_delay: int, out_delay: int, stat_delay: int) -> None:
        self._config, self._delays = config, (write_delay, out_delay, stat_delay)
        super().__init__(
            {
                "reset": In(1),
                "axi": Out(Axi4Signature(config.bus_bytes)),
                "control": Out(AxiLiteSignature(ADDRESS_BITS)),
                "irq": Out(1),
                **compute_ports(config),
                **vector_ports(config),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        write_delay, out_delay, stat_delay = self._delays
        version = sum(part << shift for part, shift in zip(VERSION, (16, 8, 0), strict=True))
        b = _Blocks(
            registers=Registers({"ID": ID, "VERSION": version, "CONFIG_HASH": config.hash}),
            controller=Controller(bool(config.vector_lanes)),
            counters=Counters(config),
            fetch=Fetch(config),
            tokens=Tokens(bool(config.vector_lanes)),
            load=LoadUnit(config, write_delay),
            store=StoreUnit(config, out_delay, stat_delay),
            reads=ReadMaster(config),
            writes=WriteMaster(config),
        )
        # The host may write a register in the cycle after the reset: no later cycle of reset may lose it.
        m.submodules.registers = ResetInserter(self.reset)(b.registers)
        for name in ("controller", "counters", "fetch", "load", "store", "reads", "writes", "tokens"):
            self._place(m, name, getattr(b, name))
        self._connect_ports(m, b)
        self._connect_commands(m, b)
        self._connect_control(m, b)
        self._connect_bursts(m, b)
        self._connect_tokens(m, b)
        self._connect_memories(m, b)
        self._connect_status(m, b)
        if config.vector_lanes:
            self._connect_vector(m, b)
        return m

    def _place(self, m: Module, name: str, block: wiring.Component) -> None:
        """Makes ``block`` a submodule with a reset of its own, see `LocalReset`."""
        m.submodules[f"{name}_reset"] = reset = LocalReset()
        m.d.comb += reset.i.eq(self.reset)
        m.submodules[name] = ResetInserter(reset.o)(block)

    def _connect_ports(self, m: Module, b: _Blocks) -> None:
        """The chip's ports."""
        connect(m, flipped(self.control), b.registers.axi)
        m.d.comb += self.irq.eq(b.registers.irq)
        for master, signature in (
            (b.reads, Axi4ReadSignature(self._config.bus_bytes)),
            (b.writes, Axi4WriteSignature(self._config.bus_bytes)),
        ):
            for name, member in signature.members.items():
                ours, theirs = getattr(self.axi, name), getattr(master.axi, name)
                m.d.comb += ours.eq(theirs) if member.flow is Out else theirs.eq(ours)

    def _connect_commands(self, m: Module, b: _Blocks) -> None:
        """From the fetch into the units' queues."""
        units = [("load", b.load.commands), ("compute", flipped(self.commands)), ("store", b.store.commands)]
        if self._config.vector_lanes:
            units.append(("vector", flipped(self.vector_commands)))
        for unit, sink in units:
            dispatch_skid = SkidBuffer(CommandWord(self._config))  # each queue is placed beside its unit, far from the fetch
            queue = CommandQueue(self._config)
            self._place(m, f"{unit}_dispatch_skid", dispatch_skid)
            self._place(m, f"{unit}_queue", queue)
            connect(m, getattr(b.fetch, unit), dispatch_skid.i)
            connect(m, dispatch_skid.o, queue.i)
            connect(m, queue.o, sink)
            m.d.comb += [dispatch_skid.clear.eq(b.controller.clear), queue.clear.eq(b.controller.clear)]

    def _connect_control(self, m: Module, b: _Blocks) -> None:
        """The controller, the registers that it obeys, and faults."""
        connect(m, b.controller.fetch, b.fetch.control)
        connect(m, b.controller.load, b.load.control)
        connect(m, b.controller.store, b.store.control)
        connect(m, b.controller.compute, flipped(self.compute))
        connect(m, b.fetch.fault, b.controller.fetch_fault)
        connect(m, b.load.fault, b.controller.load_fault)
        connect(m, b.store.fault, b.controller.store_fault)
        connect(m, flipped(self.compute_fault), b.controller.compute_fault)
        for block in (b.reads, b.writes, b.counters):
            m.d.comb += block.clear.eq(b.controller.clear)
        # In the next cycle no unit gives or requests a token yet.
        m.d.sync += b.tokens.clear.eq(b.controller.clear)
        for block in (b.fetch, b.load, b.store, b.reads, b.writes):
            m.d.comb += [block.window_base.eq(b.registers.window_base), block.window_limit.eq(b.registers.window_limit)]
        # A register beside each master: the controller waits for both as long (`Controller`).
        m.d.sync += [b.reads.stop.eq(b.controller.stop), b.writes.stop.eq(b.controller.stop)]
        m.d.comb += [
            b.fetch.start.eq(b.controller.begin),
            b.fetch.list_base.eq(b.registers.list_base),
            b.fetch.list_length.eq(b.registers.list_length),
            b.controller.start.eq(b.registers.control_start),
            b.controller.abort.eq(b.registers.control_abort),
            b.controller.list_length.eq(b.registers.list_length),
            b.controller.watchdog.eq(b.registers.watchdog),
            b.controller.bus_busy.eq(b.reads.busy | b.writes.busy),
        ]
        m.d.sync += b.controller.bus_progress.eq(b.reads.burst | b.reads.beat | b.writes.burst | b.writes.beat | b.writes.command_done)

    def _connect_bursts(self, m: Module, b: _Blocks) -> None:
        """Bursts and beats between the units and the masters."""
        fetch_burst_skid = SkidBuffer(Burst)  # the master is far from the fetch
        self._place(m, "fetch_burst_skid", fetch_burst_skid)
        m.d.comb += fetch_burst_skid.clear.eq(b.controller.clear)
        connect(m, b.fetch.bursts, fetch_burst_skid.i)
        connect(m, fetch_burst_skid.o, b.reads.fetch)
        connect(m, b.load.bursts, b.reads.load)
        connect(m, b.reads.fetch_beats, b.fetch.beats)
        connect(m, b.reads.load_beats, b.load.beats)
        connect(m, b.store.bursts, b.writes.bursts)
        connect(m, b.store.beats, b.writes.beats)
        m.d.comb += [
            b.fetch.refused.eq(b.reads.fetch_refused),
            b.fetch.refused_address.eq(b.reads.refused_address),
            b.load.refused.eq(b.reads.load_refused),
            b.load.refused_address.eq(b.reads.refused_address),
            b.store.refused.eq(b.writes.refused),
            b.store.refused_address.eq(b.writes.refused_address),
        ]
        # A cycle later, as a memory's word says whether a response was a command's last.
        m.d.sync += [getattr(b.store, n).eq(getattr(b.writes, n)) for n in ("command_done", "error", "error_address")]

    def _connect_tokens(self, m: Module, b: _Blocks) -> None:
        connect(m, b.load.wait, b.tokens.load)
        connect(m, b.store.wait, b.tokens.store)
        connect(m, flipped(self.compute_wait), b.tokens.compute)
        connect(m, flipped(self.segment_wait), b.tokens.segment)
        connect(m, b.load.signal, b.tokens.load_done)
        connect(m, b.store.signal, b.tokens.store_done)
        connect(m, flipped(self.compute_read), b.tokens.compute_read)
        connect(m, flipped(self.compute_done), b.tokens.compute_done)

    def _connect_memories(self, m: Module, b: _Blocks) -> None:
        connect(m, b.load.operand, flipped(self.operand))
        connect(m, b.load.scale, flipped(self.scale))
        connect(m, b.store.out_read, flipped(self.out_read))
        connect(m, b.store.stat_read, flipped(self.stat_read))

    def _connect_status(self, m: Module, b: _Blocks) -> None:
        """Status registers, interrupts and counters."""
        # A cycle later, so that the masters' handshakes have no far readers; the last one comes well before the end.
        m.d.sync += [
            b.counters.read_beat.eq(b.reads.beat),
            b.counters.read_burst.eq(b.reads.burst),
            b.counters.write_beat.eq(b.writes.beat),
            b.counters.write_burst.eq(b.writes.burst),
        ]
        names = ("error_command", "error_address", "commands_done")
        m.d.comb += [getattr(b.registers, n).eq(getattr(b.controller, n)) for n in names]
        for name in ("busy", "done", "error", "draining", "code", "detail", "unit"):
            m.d.comb += getattr(b.registers, f"status_{name}").eq(getattr(b.controller, name))
        m.d.comb += [
            b.registers.running.eq(b.controller.busy),
            b.registers.irq_status_done.eq(b.controller.done_event),
            b.registers.irq_status_error.eq(b.controller.error_event),
            *(getattr(b.registers, name).eq(getattr(b.counters, f"{name}_count")) for name, _ in COUNTERS),
            b.counters.running.eq(b.controller.running),
            b.counters.step.eq(self.step),
            b.counters.load_active.eq(b.load.active | b.fetch.active),
            b.counters.store_active.eq(b.store.active),
            b.counters.drain_busy.eq(self.drain_busy),
            b.counters.macs.eq(self.macs),
        ]
        if not self._config.vector_lanes:
            m.d.comb += b.counters.saturations.eq(self.saturations)

    def _connect_vector(self, m: Module, b: _Blocks) -> None:
        """The vector unit: control, tokens, and its memories' transfers."""
        connect(m, b.controller.vector, flipped(self.vector))
        connect(m, flipped(self.vector_fault), b.controller.vector_fault)
        connect(m, flipped(self.vector_wait), b.tokens.vector)
        connect(m, flipped(self.vector_done), b.tokens.vector_done)
        m.d.comb += [
            b.counters.vector_busy.eq(self.vector_active),
            b.counters.saturations.eq(self.saturations + self.vector_saturations),
        ]
        for name in VECTOR_WRITES:
            connect(m, getattr(b.load, name), flipped(getattr(self, name)))
        connect(m, b.store.vector_store, flipped(self.vector_store))
        connect(m, flipped(self.vector_stored), b.store.vector_stored)
        connect(m, b.store.scalar_read, flipped(self.scalar_read))
