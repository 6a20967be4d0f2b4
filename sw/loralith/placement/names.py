"""Hierarchical names of the source design from those of a netlist."""

from __future__ import annotations

import re

__all__ = ["designer"]


def designer(name: str) -> str:
    """A nextpnr name without the tools' additions: a top instance `dut`, promotion to a global net, cell and port suffixes."""
    name = re.sub(r"^\$glbnet\$", "", name)
    name = re.sub(r"\$TRELLIS_IO_(IN|OUT)$", "", name)
    name = re.sub(r"^dut\.", "", name)
    return re.sub(
        r"(_(TRELLIS_FF|LUT4|CCU2C|PFUMX|L6MUX21|MULT18X18D|DP16KD)(_\d+)?|_[A-Z]\d?|_(DI|Q|CE|LSR|COUT|CIN|S[01]|DO|BLUT|ALUT)(_\d+)?"
        r"|\$CCU2_(COMB[01]|FCI_INT))+$",
        "",
        name,
    )
