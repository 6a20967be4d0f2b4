"""One AXI4-Lite port in front of several register files."""

from __future__ import annotations

from collections.abc import Mapping

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from loralith.rtl.axi import AxiLiteSignature, Resp
from loralith.spec.link import REGISTER_ADDRESS_BITS

__all__ = ["RegisterDecoder"]


class RegisterDecoder(wiring.Component):
    """Passes each access to the register file at its address; anywhere else it is answered with DECERR.

    Parameter: files, name -> (base address, bits of an address in it); the base is a multiple of the file's size.

    Members:
        i: from a master with one access at a time, whose address stays until the answer.
        <name>: to each file.

    Raises ValueError for a base that is no multiple of the size.
    """

    def __init__(self, files: Mapping[str, tuple[int, int]]) -> None:
        for name, (base, bits) in files.items():
            if base % (1 << bits):
                raise ValueError(f"base of {name} must be a multiple of {1 << bits:#x}, not {base:#x}")
        self._files = dict(files)
        ports = {name: In(AxiLiteSignature(bits)) for name, (_, bits) in files.items()}
        super().__init__({"i": Out(AxiLiteSignature(REGISTER_ADDRESS_BITS)), **ports})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        i = self.i
        write, read = Signal(), Signal()  # an access to no file is to be answered
        write_hit, read_hit = Signal(), Signal()
        for name, (base, bits) in self._files.items():
            port = getattr(self, name)
            m.d.comb += [getattr(port, n).eq(getattr(i, n)) for n in ("awaddr", "awprot", "wdata", "wstrb", "araddr", "arprot")]
            with m.If(i.awaddr[bits:] == base >> bits):
                m.d.comb += [write_hit.eq(1), *(getattr(port, n).eq(getattr(i, n)) for n in ("awvalid", "wvalid", "bready"))]
                m.d.comb += [getattr(i, n).eq(getattr(port, n)) for n in ("awready", "wready", "bvalid", "bresp")]
            with m.If(i.araddr[bits:] == base >> bits):
                m.d.comb += [read_hit.eq(1), *(getattr(port, n).eq(getattr(i, n)) for n in ("arvalid", "rready"))]
                m.d.comb += [getattr(i, n).eq(getattr(port, n)) for n in ("arready", "rvalid", "rdata", "rresp")]
        with m.If(~write_hit):
            m.d.comb += [i.awready.eq(i.awvalid & i.wvalid & ~write), i.wready.eq(i.awready), i.bvalid.eq(write), i.bresp.eq(Resp.DECERR)]
            m.d.sync += write.eq((i.awvalid & i.awready) | (write & ~i.bready))
        with m.If(~read_hit):
            m.d.comb += [i.arready.eq(~read), i.rvalid.eq(read), i.rresp.eq(Resp.DECERR)]
            m.d.sync += read.eq((i.arvalid & i.arready) | (read & ~i.rready))
        return m
