"""The array's use on the LoRA layers of published models: every linear run on the RTL, or modelled."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from loralith.compiler.schedules.training_step import step_macs
from loralith.compiler.storage.regions import DoesNotFit
from loralith.device import open_device
from loralith.device.native.build import build, cache_folder
from loralith.shapes import measured_run, published_models
from loralith.spec.config import load_config

__all__ = ["published_shapes", "sd15_page", "sd15_step", "sd15_summary"]


def published_shapes(
    config_name: str,
    model: str,
    rank: int,
    subset: str,
    dataflow: str,
    origin: Mapping[str, str],
    *,
    on_rtl: bool,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """The LoRA linears of ``model``, or those that read the text (``subset`` kv): cycles of each from the RTL's counters, or modelled.

    ``dataflow`` fixed-os gives the closed form of an ideal output-stationary array. ``origin`` goes in front of the figures.
    """
    config = load_config(config_name)
    image = published_models.image_linears(model, rank) if subset == "all" else {}
    text = published_models.text_linears(model, rank)
    found: list[Any]
    if not on_rtl:
        found = [measured_run.modelled(linear, count, config) for linear, count in image.items()]
        found += _text(
            text, lambda: measured_run.modelled_text(text, config), lambda linear, count: measured_run.modelled(linear, count, config)
        )
    else:
        hardware, cache = build(config).parent.name, cache_folder().parent / "shapes"
        with open_device("verilator", config=config_name, memory_bytes=1 << 29) as device:

            def one(linear: Any, count: int) -> Any:
                return measured_run.measure(linear, count, device, hardware, cache, say)

            found = [one(linear, count) for linear, count in image.items()]
            found += _text(text, lambda: measured_run.measure_text(text, device, hardware, cache, say), one)
    figures = {
        "config": config.name,
        "rows": config.rows,
        "cols": config.cols,
        "bus_bytes": config.bus_bytes,
        "model": model,
        "rank": rank,
        "subset": subset,
        "dataflow": dataflow,
    }
    figures = {**origin, **figures}
    figures |= measured_run.total(found, config)
    return _fixed(figures) if dataflow == "fixed-os" else figures


def _text(text: list[Any], together: Callable[[], Any], alone: Callable[[Any, int], Any]) -> list[Any]:
    """The linears that read the text: in one list where that fits, else each shape by itself."""
    try:
        return [together()]
    except DoesNotFit:
        return [alone(linear, count) for linear, count in Counter(text).items()]


def _fixed(figures: dict[str, Any]) -> dict[str, Any]:
    """The closed form's figures in the place of the machine's."""
    layers = [
        {name: layer[name] for name in ("name", "count", "tokens", "inputs", "outputs", "rank", "dx", "macs")}
        | {"utilization": layer["fixed_os_utilization"], "measured": False}
        for layer in figures["layers"]
    ]
    return figures | {
        "cycles": figures["fixed_os_cycles"],
        "utilization": figures["fixed_os_utilization"],
        "measured_cycles_share": 0.0,
        "speedup_over_fixed_os": 1.0,
        "layers": layers,
    }


def sd15_step(
    config_name: str, rank: int, first: int | None, origin: Mapping[str, str], *, on_rtl: bool, say: Callable[[str], None]
) -> dict[str, Any]:
    """Linears of SD-1.5 that read the image (the ``first`` ones) as lists of their own, those of the text as one. Lists that have run are
    not run again. ``origin`` goes in front of the figures."""
    config = load_config(config_name)
    image, text = published_models.step_linears("sd15", rank)[:first], published_models.text_linears("sd15", rank)
    rows: list[dict[str, Any]] = []

    def add(name: str, linears: list[Any], cycles: int, macs: int, modelled: int) -> None:
        assert macs == step_macs(linears)
        used = macs / (cycles * config.processing_elements)
        rows.append({"name": name, "macs": macs, "cycles": cycles, "utilization": used, "model_error": modelled / cycles - 1})

    if not on_rtl:
        for linear in image:
            once = measured_run.modelled(linear, 1, config).cycles
            add(linear.name, [linear], once, linear.macs, once)
        if not first:
            found = measured_run.modelled_text(text, config)
            add("text", text, found.cycles, found.macs, found.modelled)
    else:
        hardware, cache = build(config).parent.name, cache_folder().parent / "sd15"
        started = time.monotonic()
        with open_device("verilator", config=config_name, memory_bytes=1 << 29) as device:
            for i, linear in enumerate(image):
                counters, modelled = measured_run.run_once(linear, i, device, hardware, cache)
                add(linear.name, [linear], counters["cycles"], counters["macs"], modelled)
                spent = time.monotonic() - started
                say(f"{i + 1}/{len(image)}  {linear.name}  {rows[-1]['utilization']:.1%} used  {spent:.0f} s")
            if not first:
                found = measured_run.measure_text(text, device, hardware, cache, say)
                add("text", text, found.cycles, found.macs, found.modelled)
    cycles, macs = sum(row["cycles"] for row in rows), sum(row["macs"] for row in rows)
    return {
        **origin,
        "config": config.name,
        "rank": rank,
        "on_rtl": on_rtl,
        "linears": len(image) + (0 if first else len(text)),
        "macs": macs,
        "cycles": cycles,
        "utilization": macs / (cycles * config.processing_elements),
        "layers": rows,
    }


def sd15_summary(figures: dict[str, Any]) -> str:
    """Figures of `sd15_step` in a few sentences."""
    where = "on the RTL, every result equal to the products' definition" if figures["on_rtl"] else "by the cycle model"
    return (
        f"{figures['linears']} linears, rank {figures['rank']}, {figures['config']}: {figures['macs']:,} MACs in {figures['cycles']:,} "
        f"cycles, {figures['utilization']:.2%} of the array, {where}. {_share_of_a_step(figures)}Each linear that reads the image is a "
        "list of its own; nothing overlaps with its first load and last store."
    )


def sd15_page(figures: dict[str, Any]) -> list[str]:
    """Figures of `sd15_step` as Markdown."""
    rows = [
        f"| {row['name']} | {row['macs']:,} | {row['cycles']:,} | {row['utilization']:.2%} | {row['model_error']:+.2%} |"
        for row in figures["layers"]
    ]
    return [sd15_summary(figures), "", "| linear | MACs | cycles | used | model error |", "|---|---|---|---|---|", *rows]


def _share_of_a_step(figures: dict[str, Any]) -> str:
    """How much of a training step the linears are, where all of them were run."""
    if figures["linears"] < len(published_models.step_linears("sd15", figures["rank"])) + len(
        published_models.text_linears("sd15", figures["rank"])
    ):
        return ""
    share = figures["macs"] / (figures["macs"] + published_models.BESIDE_LORA["sd15"])
    return f"They are {share:.0%} of the multiply-accumulates of a training step, whose other layers are not in these figures. "
