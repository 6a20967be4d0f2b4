"""Energy, tier (i): counts agree with the devices' counters, and joules with a hand calculation."""

import json

import pytest

import loralith
from loralith import cli, energy
from loralith.compiler.schedules.matmul import compile_matmul, plan_matmul
from loralith.compiler.schedules.training_step import Linear, compile_step, place
from loralith.spec.config import PRESETS

TINY = PRESETS["tiny"]


@pytest.mark.parametrize(("T", "I", "O", "rank", "dx"), [(8, 8, 8, 4, True), (13, 40, 24, 3, True), (5, 17, 33, 1, False)])
def test_counts_are_those_of_a_device(T: int, I: int, O: int, rank: int, dx: bool) -> None:
    linear = Linear("l", T, I, O, rank, dx)
    with loralith.open_device("reference", config="tiny") as device:
        tensors, _ = place(linear, device.alloc(1 << 20), TINY)
        commands = compile_step([(linear, tensors)], TINY)
        counters = device.run(commands).counters
    counted = energy.activity(commands, TINY)
    assert counted.macs == counters.macs == linear.macs
    assert counted.dram == counters.bytes_read + counters.bytes_written
    # The reference takes one cycle for each step of the array; steps that only shift do no work and are not slots.
    assert counted.slots == counters.busy * TINY.processing_elements
    assert counted.dram_sums >= 4 * rank * (I + O)


def test_a_product_s_traffic_by_hand() -> None:
    """8 x 16 times 16 x 8 on 4 x 4 elements: four tiles of 16 steps, each with a word of 4 bytes from either side."""
    plan = plan_matmul(8, 8, 16, TINY)
    counted = energy.activity(compile_matmul(plan, 0, 4096, 8192, TINY), TINY)
    assert (counted.macs, counted.slots) == (1024, 1024)
    read = 4 * 16 * 4
    assert counted.left - 8 * 16 == read
    assert counted.right - 16 * 8 == read
    assert counted.dram_operands == 2 * 128
    assert counted.dram_sums == 4 * 64
    assert counted.out_sums == 2 * 4 * 64  # in and out again
    assert counted.requantized == 0


def test_joules_by_hand() -> None:
    one = energy.Activity(macs=10, dram_operands=8, dram_sums=16, dram_other=8, left=64, acc=32, requantized=2, folds=3)
    int8, _, fp32 = (energy.energy(one, PRESETS["base"], "45nm", f) for f in energy.formats("45nm"))
    assert int8["arithmetic"] == pytest.approx(10 * 0.3e-12)
    assert int8["post_processing"] == pytest.approx((3 * 0.1 + 2 * 3.2) * 1e-12)
    assert int8["dram"] == pytest.approx(4 * 1300e-12)
    assert fp32["dram"] == pytest.approx((4 + 2 + 1) * 1300e-12)
    assert fp32["arithmetic"] == pytest.approx(10 * 4.6e-12)
    # 8 KiB banks of the left scratchpad, 32 KiB of the accumulate buffer.
    assert int8["on_chip"] == pytest.approx((8 * 10 + 4 * 20) * 1e-12)
    assert int8["total"] == pytest.approx(sum(value for name, value in int8.items() if name != "total"))


def test_every_entry_of_the_table_has_a_source_and_a_positive_energy() -> None:
    table = energy.table()
    for node, entries in table["nodes"].items():
        assert {f.name for f in energy.formats(node)} >= {"int8", "fp16", "fp32"}
        for name, entry in entries.items():
            assert entry["pj"] > 0, name
            assert entry["source"] in table["sources"], name


def test_the_report_says_its_tier_and_has_wider_numbers_cost_more(capsys: pytest.CaptureFixture[str], tmp_path) -> None:
    stem = tmp_path / "energy"
    assert cli.main(["report", "energy", "--ranks", "4", "--node", "45nm", "--config", "large", "--json", "--output", str(stem)]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert "tier (i)" in figures["tier"]
    (step,) = figures["steps"]
    assert 1 == step["ratio"]["int8"] < step["ratio"]["fp16"] < step["ratio"]["fp32"]
    assert step["ratio_without_dram"]["fp16"] > step["ratio"]["fp16"]
    page = stem.with_suffix(".md").read_text()
    assert "Tier (i)" in page
    assert "| 4 | 45nm | fp32 |" in page
    assert json.loads(stem.with_suffix(".json").read_text())["steps"] == figures["steps"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "sd-9"], "model must be one of sd15, not 'sd-9'"),
        (["--ranks", "0"], "a rank must be in 1..128, not 0"),
        (["--node", "3nm"], "node must be one of 45nm, 7nm, not '3nm'"),
    ],
)
def test_bad_input_is_named(words: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    small = compile_matmul(plan_matmul(4, 4, 4, TINY), 0, 4096, 8192, TINY)
    monkeypatch.setattr(energy, "layer_list", lambda linear, rank, config: small)
    assert cli.main(["report", "energy", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_format_that_a_node_lacks_is_named() -> None:
    bf16 = next(f for f in energy.FORMATS if f.name == "bf16")
    with pytest.raises(energy.EnergyError, match="no multiply_bf16 at 45nm; its formats are int8, fp16, fp32"):
        energy.energy(energy.Activity(), TINY, "45nm", bf16)
