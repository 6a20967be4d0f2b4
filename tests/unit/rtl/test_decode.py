"""The decoder and its parts: against the oracle of raw lists, which is written from docs/machine.md, and against integer loops."""

import random

import pytest
from amaranth.hdl import Module, ResetInserter, Signal

from loralith.rtl.decode import ComputeDecoder
from loralith.rtl.decode_fields import FieldCheck
from loralith.rtl.decode_regions import RegionCheck
from loralith.rtl.decode_shift import ShiftSearch, SlotScoreboard
from loralith.rtl.tile import CommandFlags, Plan
from loralith.spec.commands import COMPUTE, Opcode, OutMode, ScaleMode
from loralith.spec.config import PRESETS
from loralith.spec.numerics import least_shift
from loralith.spec.status import Check, Code
from loralith.verif.block_test import assert_each_equal, simulate
from loralith.verif.lists.oracle_checks import check_command

CONFIG = PRESETS["tiny"]
WINDOW = (0, 1 << 64)


PLACES = [name for name in COMPUTE.fields if name.endswith(("_base", "_stride", "_slot")) and not name.startswith("index")]


def draw(rng, *, broken=0.5, names=tuple(COMPUTE.fields)):
    """A random command, near the edges of its memories, with probability ``broken`` with one of the fields ``names`` that may be wrong."""
    chained, device_shift, fold_log2 = rng.randrange(2), rng.randrange(2), rng.randrange(CONFIG.max_fold.bit_length())
    t_low, span = rng.randint(0, 30), rng.randint(0, 16)
    fields = {
        "opcode": int(Opcode.COMPUTE),
        "fold_log2": fold_log2,
        "chained": chained,
        "shift": (span + rng.randint(0, 16 - span)) * chained,
        "segment_wait": rng.choice((0, 4)) * chained,
        "out_mode": rng.randrange(3),
        "scale_mode": rng.randrange(3),
        "scale_m": rng.randint(32768, 65535),
        "scale_n": rng.randrange(48),
        "m_rows": rng.randint(1, 3 * CONFIG.rows),
        "n_cols": rng.randint(1, 2 * CONFIG.cols),
        "k0": rng.randint(1, 40),
        "k1": rng.randint(1, 20) * chained,
        "device_shift": device_shift,
        "shift_up": rng.randrange(2),
        "t_low": t_low,
        "t_high": t_low + span,
        **{name: rng.randrange(CONFIG.stat_slots) for name in ("stat_slot", "exponent_slot")},
        **{name: rng.getrandbits(16) for name in ("wait", "signal", "read_signal")},
        **{name: rng.randrange(2) for name in ("acc_read", "acc_write", "stat_enable", "stochastic")},
        **{name: rng.getrandbits(32) for name in ("key0", "key1", "index_base", "index_row_stride", "index_col_stride")},
    }
    if device_shift and not chained:
        fields |= {"out_mode": int(OutMode.INT8), "scale_mode": int(ScaleMode.TENSOR)}
    fields |= {"to_out": rng.randrange(2) * (fields["out_mode"] != 0), "to_left": rng.randrange(2) * (fields["out_mode"] == OutMode.INT8)}
    for memory in ("left0", "right0", "left1", "right1", "out", "result", "acc"):
        fields |= {f"{memory}_base": rng.randint(0, 30), f"{memory}_stride": rng.randint(0, 8)}
    if rng.random() < broken:
        name = rng.choice([name for name in names if name != "opcode"])
        fields[name] = rng.choice((0, (1 << COMPUTE.fields[name].width) - 1, rng.getrandbits(COMPUTE.fields[name].width)))
    bits = int.from_bytes(COMPUTE.pack(fields), "little")
    return bits | 1 << rng.randrange(8, 8 * COMPUTE.size) if rng.random() < broken / 8 else bits  # most bits are reserved


def verdict(bits):
    """(code, detail) of the first check that the command fails, or None."""
    refusal = check_command(bits.to_bytes(COMPUTE.size, "little"), CONFIG, WINDOW)
    return refusal and (refusal.code, refusal.detail)


def model_t(fields, maximum):
    """t of docs/machine.md."""
    return next((t for t in range(fields["t_low"], fields["t_high"]) if maximum <= 127 << t), fields["t_high"])


def model_plan(fields, maximum):
    """The command's fields as the sequencer takes them, of a slot's maximum."""
    plan = {name: fields[name] for name, _ in Plan if name in fields} | {"flags": {name: fields[name] for name, _ in CommandFlags}}
    fold = 1 << fields["fold_log2"]
    plan |= {"steps0": -(-fields["k0"] // fold), "steps1": -(-fields["k1"] // fold)}
    if fields["device_shift"]:
        t = model_t(fields, maximum)
        away = fields["t_high"] - t if fields["shift_up"] else t - fields["t_low"]
        if fields["chained"]:
            plan["shift"] = fields["shift"] - away
        else:
            plan["flags"]["scale_n"] = t
    return plan


class Decoder:
    """Commands through one decoder, which is reset after each fault; ``got`` has a fault or a plan of each."""

    def __init__(self, commands, maxima, seed):
        self.dut, self.got, self.waits = ComputeDecoder(CONFIG), [], []
        rng, reset, m = random.Random(seed), Signal(), Module()
        m.submodules.dut = ResetInserter(reset)(self.dut)
        dut = self.dut

        async def bench(ctx):
            for bits, maximum in zip(commands, maxima, strict=True):
                ctx.set(dut.commands.payload, {"bits": bits, "index": len(self.got)})
                ctx.set(dut.commands.valid, 1)
                await ctx.tick().until(dut.commands.ready)
                ctx.set(dut.commands.valid, 0)
                ctx.set(dut.commands.payload, {"bits": rng.getrandbits(1024), "index": 0})
                ctx.set(dut.exponent.data, maximum | rng.getrandbits(64) << 64)
                for _ in range(300):
                    ctx.set(dut.wait.ready, rng.randrange(2))
                    ctx.set(dut.plans.ready, rng.randrange(2))
                    if ctx.get(dut.wait.valid & dut.wait.ready):
                        self.waits.append(ctx.get(dut.wait.mask))
                    if ctx.get(dut.plans.valid & dut.plans.ready):
                        self.got.append(read_plan(ctx, dut.plans.payload))
                        await ctx.tick()
                        ctx.set(dut.recorded, self.got[-1]["flags"]["stat_enable"])
                        await ctx.tick()
                        ctx.set(dut.recorded, 0)
                        break
                    await ctx.tick()
                    if ctx.get(dut.fault.valid):
                        assert ctx.get(dut.fault.command) == len(self.got)
                        self.got.append((Code(ctx.get(dut.fault.code)), Check(ctx.get(dut.fault.detail))))
                        ctx.set(reset, 1)
                        await ctx.tick()
                        ctx.set(reset, 0)
                        break
                else:
                    raise AssertionError(f"no verdict of command {len(self.got)}")

        simulate(m, bench)


def read_plan(ctx, plan):
    found: dict = {name: ctx.get(plan[name]) for name, _ in Plan if name != "flags"}
    return found | {"flags": {name: ctx.get(plan.flags[name]) for name, _ in CommandFlags}}


def test_every_command_has_its_verdict_and_a_good_one_becomes_a_plan():
    rng = random.Random(2)
    commands = [draw(rng, names=rng.choice((PLACES, tuple(COMPUTE.fields)))) for _ in range(120)]
    maxima = [rng.getrandbits(rng.randint(1, 47)) for _ in commands]
    want, waits = [], []
    for bits, maximum in zip(commands, maxima, strict=True):
        fields = COMPUTE.unpack(bits.to_bytes(COMPUTE.size, "little"))
        fault = verdict(bits)
        want.append(fault or model_plan(fields, maximum))
        waits += [] if fault else [fields["wait"]]
    decoder = Decoder(commands, maxima, seed=1)
    assert_each_equal("command", decoder.got, want, [COMPUTE.unpack(bits.to_bytes(COMPUTE.size, "little")) for bits in commands])
    assert_each_equal("wait", decoder.waits, waits)
    kinds = {one for one in want if isinstance(one, tuple)}
    assert len(kinds) > 6, f"too few kinds of faults to mean anything: {kinds}"


def test_a_wait_that_the_command_before_still_needs_is_not_asked_for():
    dut, fields = ComputeDecoder(CONFIG), {"m_rows": 1, "n_cols": 1, "k0": 1, "wait": 6}

    async def bench(ctx):
        ctx.set(dut.commands.payload.bits, int.from_bytes(COMPUTE.pack({"opcode": 2, **fields}), "little"))
        ctx.set(dut.commands.valid, 1)
        ctx.set(dut.segment_due, 4)
        for cycle in range(80):
            assert not ctx.get(dut.wait.valid), f"asked for in cycle {cycle}"
            await ctx.tick()
        ctx.set(dut.segment_due, 9)
        await ctx.tick().repeat(2)
        assert ctx.get(dut.wait.valid)

    simulate(dut, bench)


@pytest.mark.parametrize("preset", ["tiny", "base"])
def test_a_command_waits_and_is_offered_as_late_as_the_decoder_says(preset):
    dut = ComputeDecoder(PRESETS[preset])

    async def bench(ctx):
        ctx.set(dut.commands.payload.bits, int.from_bytes(COMPUTE.pack({"opcode": 2, "m_rows": 1, "n_cols": 1, "k0": 1}), "little"))
        ctx.set(dut.commands.valid, 1)
        await ctx.tick()
        ctx.set(dut.commands.valid, 0)
        await ctx.tick().repeat(dut.check_delay - 2)
        assert not ctx.get(dut.wait.valid)
        await ctx.tick()
        assert ctx.get(dut.wait.valid)
        ctx.set(dut.wait.ready, 1)
        for _ in range(dut.offer_delay):
            assert not ctx.get(dut.plans.valid)
            await ctx.tick()
        assert ctx.get(dut.plans.valid)

    simulate(dut, bench)


def test_fields_are_checked_as_the_oracle_does():
    rng, dut, got, want, commands = random.Random(3), FieldCheck(CONFIG), [], [], []

    async def bench(ctx):
        for _ in range(150):
            bits = draw(rng, broken=1)
            commands.append(COMPUTE.unpack(bits.to_bytes(COMPUTE.size, "little")))
            ctx.set(dut.command.as_value(), bits)
            for port in (dut.stage0, dut.stage1):
                ctx.set(port, 1)
                await ctx.tick()
                ctx.set(port, 0)
            flags = zip((Check.RESERVED, Check.ENUM, Check.SIZE), (dut.reserved_ok, dut.values_ok, dut.sizes_ok), strict=True)
            got.append(next((check for check, ok in flags if not ctx.get(ok)), None))
            fault = verdict(bits)
            want.append(fault[1] if fault and fault[0] is Code.BAD_FIELD else None)

    simulate(dut, bench)
    assert_each_equal("command", got, want, commands)
    assert set(want) == {Check.RESERVED, Check.ENUM, Check.SIZE, None}


def test_regions_are_checked_as_the_oracle_does():
    rng, dut, got, want, commands = random.Random(4), RegionCheck(CONFIG), [], [], []

    async def bench(ctx):
        while len(commands) < 100:
            bits = draw(rng, broken=0.8, names=PLACES)
            fault, fields = verdict(bits), COMPUTE.unpack(bits.to_bytes(COMPUTE.size, "little"))
            if fault and fault[0] is Code.BAD_FIELD:
                continue
            ctx.set(dut.command.as_value(), bits)
            for port in (dut.stage0, dut.stage1, dut.stage2):
                ctx.set(port, 1)
                await ctx.tick()
                ctx.set(port, 0)
            await ctx.tick().repeat(dut.delay - 3)
            assert ctx.get(dut.done)
            fold = 1 << fields["fold_log2"]
            want.append((fault and fault[1], [-(-fields[k] // fold) for k in ("k0", "k1")]))
            got.append((None if ctx.get(dut.ok) else Check(ctx.get(dut.detail)), [ctx.get(count) for count in dut.steps]))
            commands.append(fields)

    simulate(dut, bench)
    assert_each_equal("command", got, want, commands)
    assert len({detail for detail, _ in want}) > 4


@pytest.mark.parametrize("shift_up", [0, 1])
def test_the_shift_that_the_device_sets(shift_up):
    rng, dut, got, want, stimuli = random.Random(shift_up), ShiftSearch(), [], [], []

    async def bench(ctx):
        for _ in range(60):
            t_low = rng.randint(0, 30)
            fields = {
                "shift_up": shift_up,
                "t_low": t_low,
                "t_high": t_low + rng.randint(0, 12),
                "shift": 16,
                "exponent_slot": rng.getrandbits(8),
            }
            maximum = rng.choice((0, 127 << t_low, (127 << t_low) + 1, rng.getrandbits(rng.randint(1, 47))))
            ctx.set(dut.command, fields)
            ctx.set(dut.start, 1)
            ctx.set(dut.pending, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            await ctx.tick().repeat(rng.randint(1, 4))
            assert ctx.get(dut.exponent.slot) == fields["exponent_slot"]
            ctx.set(dut.exponent.data, rng.getrandbits(128))  # not final yet
            ctx.set(dut.pending, 0)
            await ctx.tick()
            ctx.set(dut.exponent.data, maximum)
            await ctx.tick().until(dut.done)
            t = model_t(fields, maximum)
            got.append((ctx.get(dut.t), ctx.get(dut.shift)))
            want.append((t, 16 - (fields["t_high"] - t if shift_up else t - fields["t_low"])))
            assert t == least_shift(maximum, fields["t_low"], fields["t_high"])
            stimuli.append((fields, maximum))

    simulate(dut, bench)
    assert_each_equal("shift", got, want, stimuli)


def test_a_slot_is_pending_until_no_record_is_under_way():
    rng, dut, got, want = random.Random(5), SlotScoreboard(CONFIG, ComputeDecoder.max_unrecorded), [], []

    async def bench(ctx):
        under_way, slots, delayed = 0, set(), 0
        for _ in range(600):
            issued = under_way < ComputeDecoder.max_unrecorded and rng.random() < 0.3
            recorded = under_way > 0 and rng.random() < 0.4
            slot, lookup_slot = rng.randrange(CONFIG.stat_slots), rng.randrange(CONFIG.stat_slots)
            for port, value in ((dut.issued, issued), (dut.recorded, recorded), (dut.slot, slot), (dut.lookup_slot, lookup_slot)):
                ctx.set(port, value)
            got.append(ctx.get(dut.pending))
            want.append(delayed)
            delayed = int(lookup_slot in slots)
            if under_way == 0:
                slots = set()
            if issued:
                slots = slots | {slot}
            under_way += issued - recorded
            await ctx.tick()

    simulate(dut, bench)
    assert_each_equal("cycle", got, want)
