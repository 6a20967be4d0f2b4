"""The vector unit's lanes in native code, compared with a soft float: `lane_soak` builds the program once and runs it.

`soft_float.h` is written from docs/vector_unit.md and computes in double precision; nothing but the function tables is shared with the RTL.
"""

from .lane_soak import ELEMENTS, OPERATIONS, Difference, LaneSoak

__all__ = ["ELEMENTS", "OPERATIONS", "Difference", "LaneSoak"]
