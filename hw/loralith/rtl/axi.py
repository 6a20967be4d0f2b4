"""AXI4 master and AXI4-Lite slave as signatures whose member names are the bus's own signal names."""

from __future__ import annotations

from enum import IntEnum

from amaranth.lib.wiring import In, Out, Signature

__all__ = [
    "Axi4ReadSignature",
    "Axi4Signature",
    "Axi4WriteSignature",
    "AxiLiteSignature",
    "Burst",
    "Resp",
    "port_names",
]

BOUNDARY = 4096
"""AXI: no burst crosses a multiple of this many bytes."""
CACHE = 0b0011
"""Normal, non-cacheable, bufferable memory."""


class Resp(IntEnum):
    OKAY = 0
    EXOKAY = 1
    SLVERR = 2
    DECERR = 3


class Burst(IntEnum):
    FIXED = 0
    INCR = 1
    WRAP = 2


def _address_channel(prefix: str, id_bits: int) -> dict:
    widths = {"id": id_bits, "addr": 64, "len": 8, "size": 3, "burst": 2, "lock": 1, "cache": 4, "prot": 3, "qos": 4, "valid": 1}
    return {f"{prefix}{name}": Out(width) for name, width in widths.items()} | {f"{prefix}ready": In(1)}


class Axi4ReadSignature(Signature):
    """Channels AR and R, seen from the master. Parameters: data_bytes, id_bits."""

    def __init__(self, data_bytes: int, id_bits: int = 1) -> None:
        super().__init__(
            _address_channel("ar", id_bits)
            | {"rid": In(id_bits), "rdata": In(8 * data_bytes), "rresp": In(2), "rlast": In(1), "rvalid": In(1), "rready": Out(1)}
        )


class Axi4WriteSignature(Signature):
    """Channels AW, W and B, seen from the master. Parameters: data_bytes, id_bits."""

    def __init__(self, data_bytes: int, id_bits: int = 1) -> None:
        super().__init__(
            _address_channel("aw", id_bits)
            | {"wdata": Out(8 * data_bytes), "wstrb": Out(data_bytes), "wlast": Out(1), "wvalid": Out(1), "wready": In(1)}
            | {"bid": In(id_bits), "bresp": In(2), "bvalid": In(1), "bready": Out(1)}
        )


class Axi4Signature(Signature):
    """All five channels, seen from the master: the members of the read and of the write signature side by side."""

    def __init__(self, data_bytes: int, id_bits: int = 1) -> None:
        super().__init__(
            dict(Axi4WriteSignature(data_bytes, id_bits).members.items()) | dict(Axi4ReadSignature(data_bytes, id_bits).members.items())
        )


class AxiLiteSignature(Signature):
    """AXI4-Lite with 32-bit data, seen from the slave. Parameter: address_bits."""

    def __init__(self, address_bits: int) -> None:
        super().__init__(
            {
                "awaddr": In(address_bits),
                "awprot": In(3),
                "awvalid": In(1),
                "awready": Out(1),
                "wdata": In(32),
                "wstrb": In(4),
                "wvalid": In(1),
                "wready": Out(1),
                "bresp": Out(2),
                "bvalid": Out(1),
                "bready": In(1),
                "araddr": In(address_bits),
                "arprot": In(3),
                "arvalid": In(1),
                "arready": Out(1),
                "rdata": Out(32),
                "rresp": Out(2),
                "rvalid": Out(1),
                "rready": In(1),
            }
        )


def port_names(prefix: str, signature: Signature) -> list[tuple[str, str, object]]:
    """(port name, member, its In or Out with the shape) of a bus: ("m_axi_gmem_araddr", "araddr", Out(64)), ..."""
    return [(f"{prefix}_{name}", name, member) for name, member in signature.members.items()]
