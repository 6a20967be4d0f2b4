"""Loads and results at the write ports of the scratchpads."""

import random

from loralith.rtl.scratchpad_write_arbiter import ScratchpadWriteArbiter
from loralith.spec.config import PRESETS
from loralith.verif.block_test import assert_each_equal, simulate


def read_port(ctx, port):
    """What a write port does in this cycle; the bytes that it does not use left out."""
    if not ctx.get(port.en):
        return None
    source = port.seq if ctx.get(port.transpose) else port.word
    fields = tuple(ctx.get(getattr(port, name)) for name in ("row", "bank_mask", "lane_mask", "transpose"))
    return (*fields, [ctx.get(byte) for byte in source])


def model(load, result, config):
    """(left, right, ready): what the two ports do, ``load`` and ``result`` being what is asked for, or None."""
    R, C = config.rows, config.cols
    left = right = None
    ready = bool(load and load["right"]) or result is None
    if load and ready:
        bytes_ = load["seq"] if load["transpose"] else load["word"]

        def write(lanes, row="row", bank_mask="bank_mask", lane_mask="lane_mask", data=bytes_, transpose=load["transpose"]):
            return (load[row], load[bank_mask], load[lane_mask] & (1 << lanes) - 1, transpose, data if transpose else data[:lanes])

        if load["both"] and not load["right"]:
            left, right = write(R), write(C, "right_row", "right_bank_mask", "right_lane_mask", load["word"], 0)
        elif load["right"]:
            right = write(C)
        else:
            left = write(R)
    if result:
        left = (result["row"], result["mask"], (1 << R) - 1, 0, result["word"])
    return left, right, ready


def test_a_result_goes_before_a_load_into_the_left_scratchpad():
    config, rng = PRESETS["tiny"], random.Random(1)
    R, C, W = config.rows, config.cols, config.banks
    dut, got, want, stimuli = ScratchpadWriteArbiter(config), [], [], []

    async def bench(ctx):
        for _ in range(300):
            kind = rng.choice(("left", "right", "both"))
            load = {
                "right": int(kind == "right"),
                "both": int(kind == "both"),
                "transpose": 1 if kind == "both" else rng.randrange(2),
                **{name: rng.getrandbits(16) for name in ("row", "right_row")},
                **{name: rng.getrandbits(W) for name in ("bank_mask", "right_bank_mask")},
                "lane_mask": rng.getrandbits(max(R, C)),
                "right_lane_mask": rng.getrandbits(C),
                "seq": list(rng.randbytes(W)),
                "word": list(rng.randbytes(max(R, C))),
            }
            result = (
                {"row": rng.getrandbits(16), "mask": 1 << rng.randrange(W), "word": list(rng.randbytes(R))} if rng.randrange(2) else None
            )
            valid = rng.randrange(2)
            ctx.set(dut.loads.payload, load)
            ctx.set(dut.loads.valid, valid)
            ctx.set(dut.result_en, result is not None)
            if result:
                ctx.set(dut.result_row, result["row"])
                ctx.set(dut.result_mask, result["mask"])
                ctx.set(dut.result_word, int.from_bytes(bytes(result["word"]), "little"))
            left, right, ready = model(load if valid else None, result, config)
            got.append((read_port(ctx, dut.left), read_port(ctx, dut.right), bool(ctx.get(dut.loads.ready)) if valid else ready))
            want.append((left, right, ready))
            stimuli.append((kind, valid, result))

    simulate(dut, bench)
    assert_each_equal("write", got, want, stimuli)
