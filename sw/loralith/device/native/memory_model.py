"""How the simulated memory behaves: speed, stalls and injected faults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from loralith.device.device_errors import DeviceError
from loralith.device.native.library import CHANNELS, Settings
from loralith.spec.config import Config

__all__ = ["Faults", "MemoryTiming", "settings_for"]

FULL = 65536
RESPONSES = {"SLVERR": 2, "DECERR": 3}


@dataclass(frozen=True)
class MemoryTiming:
    """Latency, bandwidth and stalls of the simulated DRAM. The same values give the same cycles, always.

    Attributes:
        read_latency: cycles from a read's address to its first beat; bursts overlap.
        write_latency: cycles from a write's last beat to its response.
        read_rate, write_rate: beats per cycle, up to 1.
        stall: probability per cycle that a channel starts to stand still; one for all or by name of ar, r, aw, w, b.
        stall_length: a stall lasts 1 to this many cycles, each as likely.
        seed: of the stalls.
    """

    read_latency: int = 100
    write_latency: int = 20
    read_rate: float = 1.0
    write_rate: float = 1.0
    stall: float | Mapping[str, float] = 0.0
    stall_length: int = 8
    seed: int = 0


@dataclass(frozen=True)
class Faults:
    """Error responses to inject. Counts start when they are configured.

    Attributes:
        read_beat: the n-th read beat from now on, 1 for the next; 0 for none.
        write_burst: the n-th write burst from now on, likewise.
        region: (first address, first address past it) in which every access fails.
        response: "SLVERR" or "DECERR".
    """

    read_beat: int = 0
    write_burst: int = 0
    region: tuple[int, int] = (0, 0)
    response: str = "SLVERR"


def settings_for(
    config: Config, base: int, nbytes: int, timing: MemoryTiming, faults: Faults, window: tuple[int, int] | None = None
) -> Settings:
    """The C++ side's settings: DRAM of `nbytes` at `base`, all of which is the window unless one is given.

    Raises DeviceError for a rate, probability, channel or response that there is not.
    """
    stall = timing.stall if isinstance(timing.stall, Mapping) else dict.fromkeys(CHANNELS, timing.stall)
    unknown = sorted(set(stall) - set(CHANNELS))
    if unknown:
        raise DeviceError(f"stall names channels {', '.join(CHANNELS)}, not {', '.join(unknown)}")
    for name, value in (("read_rate", timing.read_rate), ("write_rate", timing.write_rate)):
        if not 1 / FULL <= value <= 1:
            raise DeviceError(f"{name} must be over 0 and at most 1 beat per cycle, not {value}")
    for name, value in stall.items():
        if not 0 <= value <= 1:
            raise DeviceError(f"stall of {name} must be a probability, not {value}")
    if faults.response not in RESPONSES:
        raise DeviceError(f"response must be {' or '.join(RESPONSES)}, not {faults.response!r}")
    settings = Settings(
        dram_base=base,
        dram_bytes=nbytes,
        window_base=window[0] if window else base,
        window_limit=window[1] if window else base + nbytes,
        outstanding_reads=config.outstanding_reads,
        outstanding_writes=config.outstanding_writes,
        max_burst=config.max_burst,
        read_latency=timing.read_latency,
        write_latency=timing.write_latency,
        read_rate=round(timing.read_rate * FULL),
        write_rate=round(timing.write_rate * FULL),
        stall_length=timing.stall_length,
        seed=timing.seed,
        read_error_beat=faults.read_beat,
        write_error_burst=faults.write_burst,
        error_base=faults.region[0],
        error_limit=faults.region[1],
        error_response=RESPONSES[faults.response],
    )
    for i, name in enumerate(CHANNELS):
        settings.stall[i] = round(stall.get(name, 0.0) * FULL)
    return settings
