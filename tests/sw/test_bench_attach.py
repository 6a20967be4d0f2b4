"""`loralith bench attach`: what it measures and what it refuses; no time is asserted."""

import json

import pytest

pytest.importorskip("diffusers")

from loralith.cli import main

TINY = ["--config", "tiny", "--tokens", "6", "--width", "8", "--rank", "2", "--steps", "1"]


def test_every_device_is_measured_with_both_reaches(capsys):
    assert main(["bench", "attach", "--json", "--device", "direct, reference", *TINY]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["torch_seconds"] >= 0
    for device in ("direct", "reference"):
        for modules in ("lora", "all"):
            assert figures[f"{device}_{modules}_over_torch"] > 0


def test_a_resnet_block_has_no_lora_layers(capsys):
    assert main(["bench", "attach", "--json", "--device", "direct", "--block", "resnet", *TINY, "--tokens", "4"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["block"] == "resnet"
    assert figures["direct_all_over_torch"] > 0
    assert "direct_lora_over_torch" not in figures
    assert main(["bench", "attach", "--block", "resnet", *TINY]) == 2
    assert "--tokens of a resnet block must be a square, not 6" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--width", "12"], "--width must be a multiple of 8, the number of heads, not 12"),
        (["--device", "direct,gpu"], "device must be reference, direct, verilator, serial:<port> or pynq:<bitfile>, not 'gpu'"),
        (["--steps", "0"], "steps must be at least 1, not 0"),
    ],
)
def test_sizes_that_make_no_block_are_refused(option, message, capsys):
    assert main(["bench", "attach", *TINY, *option]) == 2
    assert message in capsys.readouterr().err
