"""The `direct` device: the reference device whose products are computed in one piece, for long studies."""

from __future__ import annotations

from loralith.device.reference import ReferenceDevice

__all__ = ["DirectDevice"]


class DirectDevice(ReferenceDevice):
    """`device.products` and `lora.direct_passes` multiply whole matrices here, without lists: integers are exact, so the bits are the
    reference's. Counters have only the lists that somebody runs; training runs none."""

    direct = True
    cycle_unit = None
