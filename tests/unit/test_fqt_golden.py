"""Golden vectors: complete, reproducible, and a changed bit is found and named."""

import json

import numpy as np
import pytest
import torch

from loralith.spec.numerics import hash32
from loralith.verif.golden import LAYER_TENSORS, layer_cases, layer_vector, main, numerics_vector, read_vector, write_vector
from loralith.verif.golden_compare import Difference, compare, first_difference


def test_cases_cover_what_the_hardware_must_do():
    cases = layer_cases()
    assert {(case.T, case.r) for case in cases} == {(T, r) for T in (1, 64, 77) for r in (1, 3, 4, 5, 16)}
    assert all(case.alpha != case.r and case.b_size > 0 for case in cases)
    metas = [layer_vector(case)[1] for case in cases]
    chains = [(chain["base_first"], chain["drop"] > 0, chain["shift"] > 0) for meta in metas for chain in meta["chain"].values()]
    assert {(True, False, True), (True, True, True), (False, False, True), (True, False, False)} <= set(chains)
    assert {len(meta["hash_keys"]) for meta in metas} == {0, 2, 8}


def test_files_come_back_and_repeat_byte_for_byte(tmp_path):
    case = layer_cases()[6]
    tensors, meta = layer_vector(case)
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    write_vector(one, tensors, meta)
    write_vector(two, *layer_vector(case))
    assert one.read_bytes() == two.read_bytes()
    again, meta_again = read_vector(one)
    assert meta_again == meta
    assert compare(tensors, again) is None
    assert set(LAYER_TENSORS) < set(again)


def test_the_command_writes_and_checks_and_finds_a_changed_bit(tmp_path, capsys):
    assert main(["--output", str(tmp_path)]) == 0
    assert main(["--output", str(tmp_path), "--check"]) == 0
    assert capsys.readouterr().out.endswith("46 files agree\n")
    path = tmp_path / f"{layer_cases()[8].name}.safetensors"
    tensors, meta = read_vector(path)
    tensors["h_acc"][5, 2] += 1
    write_vector(path, tensors, meta)
    assert main(["--output", str(tmp_path), "--check"]) == 1
    was = tensors["h_acc"][5, 2].item()
    place = f"step 108, layer {layer_cases()[8].name}: h_acc[5, 2] is {was - 1}, expected {was} (1 of {64 * 5} elements differ)"
    assert place in capsys.readouterr().err
    tensors["h_acc"][5, 2] -= 1
    write_vector(path, tensors, {**meta, "h": meta["h"] + 1})
    assert main(["--output", str(tmp_path), "--check"]) == 1
    assert f"h is {meta['h']}, expected {meta['h'] + 1}" in capsys.readouterr().err
    assert main(["--output", str(tmp_path / "none"), "--check"]) == 1


def test_a_foreign_file_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="is not a golden vector of version 1, but None"):
        read_vector(tmp_path / "x.safetensors")


def test_numerics_columns_hold_both_signs_ties_and_saturation():
    tensors, meta = numerics_vector()
    json.dumps(meta)
    key = int(tensors["hash_key0"][3]), int(tensors["hash_key1"][3])
    assert hash32(key, int(tensors["hash_index"][3])) == tensors["hash_hash"][3]
    nearest, saturated = tensors["requantize_nearest"], tensors["requantize_nearest_saturated"]
    assert set(saturated.tolist()) == {0, 1}
    assert nearest.min() == -127
    assert nearest.max() == 127
    assert (tensors["requantize_stochastic"] != nearest).any()
    ties = (tensors["requantize_magnitude"] & ((1 << tensors["requantize_shift"]) - 1)) == (1 << tensors["requantize_shift"]) >> 1
    assert (ties & (tensors["requantize_shift"] > 0) & (saturated == 0)).sum() > 20
    assert set(tensors["quantize_nearest"].tolist()) >= {-127, -64, -2, 0, 2, 126, 127}


def test_first_difference_is_row_major_and_bitwise():
    one = torch.arange(6).reshape(2, 3)
    two = one.clone()
    assert first_difference(one, two) is None
    two[1, 0], two[0, 2] = 9, 8
    assert first_difference(one, two) == ((0, 2), 2, 8)
    assert first_difference(np.array([0.0]), np.array([-0.0])) == ((0,), 0.0, -0.0)
    assert first_difference(torch.tensor([torch.nan]), torch.tensor([torch.nan])) is None
    assert first_difference(torch.tensor(3), torch.tensor(4)) == ((), 3, 4)
    with pytest.raises(ValueError, match=r"expected the shape \(2, 3\), not \(3, 2\)"):
        first_difference(one, two.T)
    with pytest.raises(ValueError, match=r"expected the type torch\.int64, not torch\.float32"):
        first_difference(one, two.float())


def test_compare_reports_the_tensor_nearest_to_the_cause():
    expected = {"late": torch.zeros(2), "early": torch.zeros(2, 2)}
    actual = {"early": torch.tensor([[0.0, 0.0], [1.0, 2.0]]), "late": torch.ones(2)}
    found = compare(dict(reversed(expected.items())), actual, layer="attn.to_q", step=4)
    assert found == Difference(4, "attn.to_q", "early", (1, 0), 0.0, 1.0, 2, 4)
    assert str(found) == "step 4, layer attn.to_q: early[1, 0] is 1.0, expected 0.0 (2 of 4 elements differ)"
    with pytest.raises(ValueError, match="step 4, layer 0: other is missing"):
        compare({"other": torch.zeros(1)}, actual, step=4)
