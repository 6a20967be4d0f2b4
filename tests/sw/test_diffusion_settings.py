"""Bad settings are refused at once, with the value and what would be right."""

from pathlib import Path

import pytest

pytest.importorskip("diffusers")

from loralith.methods.options import TuneqdmOptions
from loralith.methods.settings import EvaluationSettings, FinetuneSettings, SettingsError


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "dreambooth"}, "method must be one of lora, hollowed-net, .*not 'dreambooth'"),
        ({"digit": 3}, "digit must be 8 or 9, the classes that the model has never seen, not 3"),
        ({"rank": 0}, "rank must be an integer of at least 1, not 0"),
        ({"rank": -4}, "rank must be an integer of at least 1, not -4"),
        ({"rank": 2.5}, r"rank must be an integer of at least 1, not 2\.5"),
        ({"rank": True}, "rank must be an integer of at least 1, not True"),
        ({"alpha": 0}, "alpha must be a finite number above 0, not 0"),
        ({"alpha": -1.0}, r"alpha must be a finite number above 0, not -1\.0"),
        ({"alpha": float("nan")}, "alpha must be a finite number above 0, not nan"),
        ({"lr": float("inf")}, "lr must be a finite number above 0, not inf"),
        ({"steps": 0}, "steps must be an integer from 1 to 4294967295, not 0"),
        ({"batch": 0}, "batch must be an integer of at least 1, not 0"),
        ({"seed": -1}, "seed must be an integer from 0 to 4294967295, not -1"),
        ({"images": 0}, "images must be an integer from 1 to 139, not 0"),
        ({"images": 1000}, "images must be an integer from 1 to 139, not 1000"),
        ({"targets": ()}, "targets must be all, kv or some of to_q"),
        ({"targets": ("to_q", "ff.net.2")}, r"targets must be all, kv or some of .*not \['to_q', 'ff\.net\.2'\]"),
        ({"targets": ("to_q", "to_q")}, "each once"),
        ({"unet_only": True}, "unet_only goes with an adapter to start from; give start_from too"),
        ({"dropout": 1.0}, r"dropout must be at least 0 and less than 1, not 1\.0"),
        ({"adapter_scales": "device"}, "adapter_scales must be 'measured' without a device, not 'device'"),
        ({"weight_bits": 4}, "weight_bits must be 8 without a device, not 4"),
        ({"device": "reference", "weight_bits": 3}, "weight_bits must be 4 or 8, not 3"),
        (
            {"device": "reference", "modules": "step", "method": "tuneqdm", "options": TuneqdmOptions(bits=8)},
            "bits must be 4 for a whole step.*not 8",
        ),
        ({"device": "direct", "modules": "step"}, "runs command lists; give the device reference, not direct"),
        ({"device": "reference", "modules": "step", "weight_bits": 4}, "weight_bits must be 8 for a whole step, not 4"),
        ({"device": "reference", "steps_per_submission": 2}, "steps_per_submission goes with modules 'step', not with 'lora'"),
        ({"device": "reference", "memory_budget": 1 << 20}, "memory_budget goes with modules 'step', not with 'lora'"),
        (
            {"device": "reference", "modules": "step", "steps_per_submission": 0},
            "steps_per_submission must be an integer of at least 1, not 0",
        ),
        ({"device": "reference", "modules": "step", "memory_budget": 0}, "memory_budget must be an integer of at least 1, not 0"),
        ({"checkpoint_every": 0}, "checkpoint_every must be an integer of at least 1, not 0"),
        ({"evaluation": EvaluationSettings(samples=0)}, r"evaluation\.samples must be an integer of at least 1, not 0"),
    ],
)
def test_bad_setting_is_named(tmp_path: Path, given: dict, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        FinetuneSettings(tmp_path, **given)


def test_identity_is_what_decides_the_result(tmp_path: Path) -> None:
    base = FinetuneSettings(tmp_path).identity()
    same = FinetuneSettings(tmp_path / "other", verify=True, checkpoint_every=3, alpha=8, targets=("to_v", "to_k", "to_q", "to_out.0"))
    assert same.identity() == base
    for other in ({"rank": 5}, {"seed": 1}, {"digit": 9}, {"device": "reference"}, {"evaluation": EvaluationSettings(samples=3)}):
        assert FinetuneSettings(tmp_path, **other).identity() != base


def test_what_a_device_computes_with_is_part_of_the_identity_where_it_is_not_the_usual(tmp_path: Path) -> None:
    usual = FinetuneSettings(tmp_path, device="reference")
    assert not {"adapter_scales", "weight_bits"} & set(usual.identity()), "runs that were begun before these settings go on"
    assert FinetuneSettings(tmp_path, device="reference", adapter_scales="device").identity()["adapter_scales"] == "device"
    scheme = FinetuneSettings(tmp_path, device="reference", weight_bits=4, adapter_scales="delayed", seed=3).scheme()
    assert (scheme.weight_bits, scheme.adapter_scales, scheme.seed) == (4, "delayed", 3)
