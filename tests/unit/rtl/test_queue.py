# amaranth: UnusedElaboratable=no
"""The FIFOs refuse a depth that they cannot have; what they do with words is proved, see loralith.verif.formal."""

from __future__ import annotations

import pytest

from loralith.rtl.queue import FIFO

# The first line is for Amaranth: a FIFO that was refused is never elaborated, and a warning of that would fail whatever test runs next.


@pytest.mark.parametrize("depth", [0, -1])
def test_a_bad_depth_is_refused(depth: int) -> None:
    with pytest.raises(ValueError, match=f"at least one entry, not {depth}"):
        FIFO(8, depth)
