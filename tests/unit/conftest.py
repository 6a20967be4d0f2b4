"""Blocks are simulated quickly."""

from helpers import quick_simulation

quick_simulation.install()
