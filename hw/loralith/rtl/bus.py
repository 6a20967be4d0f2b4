"""Everything between the buses and the compute side."""

from __future__ import annotations

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
from .interfaces import compute_ports
from .load import LoadUnit
from .queue import SkidBuffer
from .read_master import ReadMaster
from .reset import LocalReset
from .store import StoreUnit
from .tokens import Tokens
from .write_master import WriteMaster

__all__ = ["BusSide"]


class BusSide(wiring.Component):
    """Registers, controller, command fetch and queues, semaphores, load and store units and the AXI masters.

    Parameters: config; write_delay: cycles from taking an ``operand`` or ``scale`` write to its bytes being readable;
    out_delay, stat_delay: cycles from a read's ``en`` to its data.

    Members:
        axi, control, irq: the chip's ports.
        reset: every register, a cycle later; those that the host sees at once. In a domain that has a reset, none is needed.
        and those of ``compute_ports``.
    """

    def __init__(self, config: Config, write_delay: int = 2, out_delay: int = 2, stat_delay: int = 1) -> None:
        self._config, self._delays = config, (write_delay, out_delay, stat_delay)
        super().__init__(
            {
                "reset": In(1),
                "axi": Out(Axi4Signature(config.bus_bytes)),
                "control": Out(AxiLiteSignature(ADDRESS_BITS)),
                "irq": Out(1),
                **compute_ports(config),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        write_delay, out_delay, stat_delay = self._delays
        version = sum(part << shift for part, shift in zip(VERSION, (16, 8, 0), strict=True))
        registers = Registers({"ID": ID, "VERSION": version, "CONFIG_HASH": config.hash})
        controller, counters, fetch, tokens = Controller(), Counters(config), Fetch(config), Tokens()
        load, store = LoadUnit(config, write_delay), StoreUnit(config, out_delay, stat_delay)
        reads, writes = ReadMaster(config), WriteMaster(config)
        queues = [CommandQueue(config) for _ in range(3)]
        dispatch_skids = [SkidBuffer(CommandWord(config)) for _ in range(3)]  # each queue is placed beside its unit, far from the fetch
        fetch_burst_skid = SkidBuffer(Burst)  # the master is as far away
        # The host may write a register in the cycle after the reset: no later cycle of reset may lose it.
        m.submodules.registers = ResetInserter(self.reset)(registers)
        blocks = {"controller": controller, "counters": counters, "fetch": fetch, "load": load, "store": store}
        blocks |= {"reads": reads, "writes": writes, "tokens": tokens, "fetch_burst_skid": fetch_burst_skid}
        for unit, dispatch_skid, queue in zip(("load", "compute", "store"), dispatch_skids, queues, strict=True):
            blocks |= {f"{unit}_dispatch_skid": dispatch_skid, f"{unit}_queue": queue}
        for name, block in blocks.items():
            m.submodules[f"{name}_reset"] = reset = LocalReset()
            m.d.comb += reset.i.eq(self.reset)
            m.submodules[name] = ResetInserter(reset.o)(block)

        # The chip's ports.
        connect(m, flipped(self.control), registers.axi)
        m.d.comb += self.irq.eq(registers.irq)
        for master, signature in ((reads, Axi4ReadSignature(config.bus_bytes)), (writes, Axi4WriteSignature(config.bus_bytes))):
            for name, member in signature.members.items():
                ours, theirs = getattr(self.axi, name), getattr(master.axi, name)
                m.d.comb += ours.eq(theirs) if member.flow is Out else theirs.eq(ours)

        # Commands.
        for source, dispatch_skid, queue, sink in zip(
            (fetch.load, fetch.compute, fetch.store),
            dispatch_skids,
            queues,
            (load.commands, flipped(self.commands), store.commands),
            strict=True,
        ):
            connect(m, source, dispatch_skid.i)
            connect(m, dispatch_skid.o, queue.i)
            connect(m, queue.o, sink)

        # Control and faults.
        connect(m, controller.fetch, fetch.control)
        connect(m, controller.load, load.control)
        connect(m, controller.store, store.control)
        connect(m, controller.compute, flipped(self.compute))
        connect(m, fetch.fault, controller.fetch_fault)
        connect(m, load.fault, controller.load_fault)
        connect(m, store.fault, controller.store_fault)
        connect(m, flipped(self.compute_fault), controller.compute_fault)
        for block in (reads, writes, counters, fetch_burst_skid, *dispatch_skids, *queues):
            m.d.comb += block.clear.eq(controller.clear)
        # In the next cycle no unit has a token to give or to ask for yet.
        m.d.sync += tokens.clear.eq(controller.clear)
        for block in (fetch, load, store, reads, writes):
            m.d.comb += [block.window_base.eq(registers.window_base), block.window_limit.eq(registers.window_limit)]
        # A register beside each master: the controller waits for both as long (`Controller`).
        m.d.sync += [reads.stop.eq(controller.stop), writes.stop.eq(controller.stop)]
        m.d.comb += [
            fetch.start.eq(controller.begin),
            fetch.list_base.eq(registers.list_base),
            fetch.list_length.eq(registers.list_length),
            controller.start.eq(registers.control_start),
            controller.abort.eq(registers.control_abort),
            controller.list_length.eq(registers.list_length),
            controller.watchdog.eq(registers.watchdog),
            controller.bus_busy.eq(reads.busy | writes.busy),
        ]
        # A cycle later, so that the masters' handshakes have no far readers; the last one comes well before the end.
        m.d.sync += [
            counters.read_beat.eq(reads.beat),
            counters.read_burst.eq(reads.burst),
            counters.write_beat.eq(writes.beat),
            counters.write_burst.eq(writes.burst),
        ]
        m.d.sync += controller.bus_progress.eq(reads.burst | reads.beat | writes.burst | writes.beat | writes.command_done)

        # Bursts and beats.
        connect(m, fetch.bursts, fetch_burst_skid.i)
        connect(m, fetch_burst_skid.o, reads.fetch)
        connect(m, load.bursts, reads.load)
        connect(m, reads.fetch_beats, fetch.beats)
        connect(m, reads.load_beats, load.beats)
        connect(m, store.bursts, writes.bursts)
        connect(m, store.beats, writes.beats)
        m.d.comb += [
            fetch.refused.eq(reads.fetch_refused),
            fetch.refused_address.eq(reads.refused_address),
            load.refused.eq(reads.load_refused),
            load.refused_address.eq(reads.refused_address),
            store.refused.eq(writes.refused),
            store.refused_address.eq(writes.refused_address),
        ]
        # A cycle later, as a memory's word says whether a response was a command's last.
        m.d.sync += [getattr(store, n).eq(getattr(writes, n)) for n in ("command_done", "error", "error_address")]

        # Tokens.
        connect(m, load.wait, tokens.load)
        connect(m, store.wait, tokens.store)
        connect(m, flipped(self.compute_wait), tokens.compute)
        connect(m, flipped(self.segment_wait), tokens.segment)
        connect(m, load.signal, tokens.load_done)
        connect(m, store.signal, tokens.store_done)
        connect(m, flipped(self.compute_read), tokens.compute_read)
        connect(m, flipped(self.compute_done), tokens.compute_done)

        # Memories.
        connect(m, load.operand, flipped(self.operand))
        connect(m, load.scale, flipped(self.scale))
        connect(m, store.out_read, flipped(self.out_read))
        connect(m, store.stat_read, flipped(self.stat_read))

        # Status and counters.
        names = ("error_command", "error_address", "commands_done")
        m.d.comb += [getattr(registers, n).eq(getattr(controller, n)) for n in names]
        for name in ("busy", "done", "error", "draining", "code", "detail", "unit"):
            m.d.comb += getattr(registers, f"status_{name}").eq(getattr(controller, name))
        m.d.comb += [
            registers.running.eq(controller.busy),
            registers.irq_status_done.eq(controller.done_event),
            registers.irq_status_error.eq(controller.error_event),
            *(getattr(registers, name).eq(getattr(counters, f"{name}_count")) for name, _ in COUNTERS),
            counters.running.eq(controller.running),
            counters.step.eq(self.step),
            counters.load_active.eq(load.active | fetch.active),
            counters.store_active.eq(store.active),
            counters.drain_busy.eq(self.drain_busy),
            counters.macs.eq(self.macs),
            counters.saturations.eq(self.saturations),
        ]
        return m
