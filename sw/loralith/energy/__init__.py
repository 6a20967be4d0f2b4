"""Energy of a LoRA training step, in labelled tiers.

- `activity(commands, config)`: what a command list makes the machine do, counted from its descriptors.
- `energy(activity, config, node, format)`: tier (i), counts times published energies per operation (`operations.json`).
- `counted_energy(macs, dram_bytes, node)`: of that what a device's own counters tell.
- `MODELS`, `layer_list(linear, rank, config)`: a model's adapted layers, and the list of one.
"""

from .activity import MODELS, Activity, activity, layer_list
from .estimate import FORMATS, TIER, EnergyError, Format, counted_energy, energy, formats, nodes, table

__all__ = [
    "FORMATS",
    "MODELS",
    "TIER",
    "Activity",
    "EnergyError",
    "Format",
    "activity",
    "counted_energy",
    "energy",
    "formats",
    "layer_list",
    "nodes",
    "table",
]
