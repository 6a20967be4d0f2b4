"""What is stored of a result, terms of sums, and reductions over lanes, against ``loralith.spec.vector.numbers``."""

import random

import pytest

from loralith.rtl.vector.pack import POINT, TERM_BITS, Pack
from loralith.rtl.vector.reduction import ReductionAccumulator, ReductionReader
from loralith.spec.vector import numbers
from loralith.spec.vector.program import Format, Reduce

COUNT = 2000
SCALES = [1, 100, 120, 127, 140, 254]


def results(bench, scale: int) -> list[tuple[int, int]]:
    """(word, random byte): corner cases, then words near the scale: ties, values that saturate and that just do not."""
    rng = random.Random(scale)
    found = [(word, rng.choice([0, 255, rng.getrandbits(8)])) for word in bench.corner_words()]
    for _ in range(COUNT):
        low = min(max(scale - 12, 1), 254)
        word = bench.random_word(rng, low, min(max(scale + 9, low), 254))
        found.append((word, rng.getrandbits(8)))
    for q in (0, 1, 2, 3, 63, 64, 126, 127, 128):
        for half in (0, 0.5):
            if 1 < scale < 120 or scale > 120:
                exponent = scale - numbers.BIAS
                word = numbers.from_float((q + half) * 2.0**exponent) if exponent < 119 else 0
                found += [(word + more + sign, rng.getrandbits(8)) for more in (-1, 0, 1) if word for sign in (0, 1 << 24)]
    return found


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("stochastic", [False, True], ids=["nearest", "stochastic"])
def test_an_int8_is_rounded_and_clipped_and_is_its_own_term(bench, scale, stochastic):
    dut, operands = Pack(), results(bench, scale)
    inputs = [{"x": word} for word, _ in operands]
    for at, (_, byte) in enumerate(operands):
        if at + dut.random_delay < len(inputs):
            inputs[at + dut.random_delay]["random"] = byte
    inputs += [{"x": 0, "random": byte} for _, byte in operands[-dut.random_delay :]]
    constants = {"enable": 1, "format": Format.INT8_STOCHASTIC if stochastic else Format.INT8, "scale": scale, "summing": 1}
    found = bench.stream(dut, dut.delay, inputs, ("word", "saturated", "term", "fault"), constants)
    for (word, byte), got in list(zip(operands, found, strict=False))[2:]:
        q, saturated = numbers.quantize(word, scale - numbers.BIAS, byte if stochastic else None)
        assert got == (q % 256, int(saturated), (q << POINT) % 2**TERM_BITS, 0), (hex(word), byte)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("brain", [False, True], ids=["word", "brain"])
def test_a_word_is_stored_clean_and_its_term_is_cut_to_the_bound(bench, scale, brain):
    dut, operands = Pack(), [word for word, _ in results(bench, scale)]
    constants = {"enable": 1, "format": Format.BRAIN if brain else Format.WORD, "scale": scale, "summing": 1}
    found = bench.stream(dut, dut.delay, [{"x": word} for word in operands], ("word", "saturated", "term", "fault"), constants)
    for word, got in list(zip(operands, found, strict=True))[2:]:
        stored = bench.expect(numbers.round_brain, word) if brain else bench.bits_of(word)
        term = bench.expect(numbers.sum_term, word, scale - numbers.BIAS + 1)
        if stored is None or term is None:
            assert got[3] == 1, hex(word)
        else:
            assert got == (stored, 0, term % 2**TERM_BITS, 0), hex(word)


def rank(word: int, signed: bool) -> int:
    """What orders words, see `RANK_BITS`."""
    magnitude, negative = word % 2**24, signed and word >> 24 and word >> 16 & 0xFF
    return magnitude ^ 0xFFFFFF if negative else signed << 24 | magnitude


@pytest.mark.parametrize("signed", [0, 1], ids=["magnitude", "value"])
def test_a_lane_gathers_the_exact_sum_and_the_largest_word(bench, signed):
    rng = random.Random(5)
    inputs, wanted, total, most = [{"clear_sum": 1, "clear_maximum": 1}], [], 0, 0
    for _ in range(500):
        term, word = (
            rng.randrange(-(2 ** (TERM_BITS - 1)), 2 ** (TERM_BITS - 1)),
            rng.choice([bench.random_word(rng, 1, rng.choice([254, 100])), rng.choice([0, 1 << 24 | 3])]),
        )
        summing, comparing = rng.random() < 0.8, rng.random() < 0.8
        clear = {"clear_sum": rng.random() < 0.02, "clear_maximum": rng.random() < 0.02}
        inputs.append({**clear, "summing": summing, "comparing": comparing, "term": term % 2**TERM_BITS, "word": word, "signed": signed})
        total = 0 if clear["clear_sum"] else total + term * summing
        most = 0 if clear["clear_maximum"] else max(most, rank(word, signed)) if comparing else most
        wanted.append((total % 2**numbers.SUM_BITS, most))
    assert bench.stream(ReductionAccumulator(), 1, inputs, ("sum", "maximum"))[1:] == wanted


@pytest.mark.parametrize("lanes", [4, 8])
@pytest.mark.parametrize("integers", [0, 1], ids=["words", "integers"])
@pytest.mark.parametrize("reduce", [reduce for reduce in Reduce if reduce], ids=lambda r: r.name)
def test_lanes_are_read_one_after_the_other_or_together(bench, lanes, integers, reduce):
    rng = random.Random(lanes)
    for scale in (1, 127, 230):
        limit = 2 ** (numbers.SUM_BITS - 4)
        sums = [rng.choice([0, rng.randrange(-limit, limit), rng.randrange(-1000, 1000)]) for _ in range(lanes)]
        signed = reduce in (Reduce.TOP_LANE, Reduce.TOP_ALL)
        largest = [rng.choice([0, 0x1234, bench.random_word(rng, 1, 254)]) for _ in range(lanes)]
        # A lane without a word of the tensor has rank 0, below all words.
        maxima = [0 if signed and lane == lanes - 1 else rank(word, signed) for lane, word in enumerate(largest)]
        largest = [word if signed else word % 2**24 for word in largest]
        constants = {"enable": 1, "reduce": reduce, "integers": integers, "scale": scale}
        constants |= {f"sums.{i}": value % 2**numbers.SUM_BITS for i, value in enumerate(sums)}
        constants |= {f"maxima.{i}": value for i, value in enumerate(maxima)}
        dut = ReductionReader(lanes)
        rows = bench.stream(
            dut,
            0,
            [{"start": 0}, {"start": 0}, {"start": 1}, *[{"start": 0}] * 30],
            ("write", "all_lanes", "lane", "word", "last", "fault"),
            constants,
        )
        written = [row for row in rows if row[0]]
        exponent = scale - numbers.BIAS - POINT if integers else scale - numbers.BIAS + 1 - numbers.SUM_FRACTION_BITS
        words = [bench.expect(numbers.from_integer, value, exponent) for value in sums]
        together = bench.expect(numbers.from_integer, sum(sums), exponent)
        wanted = {
            Reduce.SUM_LANE: words,
            Reduce.SUM_ALL: [together],
            Reduce.MAX_LANE: [bench.bits_of(word) for word in largest],
            Reduce.MAX_ALL: [bench.bits_of(max(largest))],
            Reduce.TOP_LANE: [*(bench.bits_of(word) for word in largest[:-1]), 0],
            Reduce.TOP_ALL: [bench.bits_of(max(largest[:-1], key=lambda word: rank(word, True)))],
        }[reduce]
        assert [None if row[5] else row[3] for row in written] == wanted
        assert [row[4] for row in written] == [0] * (len(wanted) - 1) + [1]
        assert [row[1] for row in written] == [int(len(wanted) == 1)] * len(wanted)
        if len(wanted) == lanes:
            assert [row[2] for row in written] == list(range(lanes))
            assert rows.index(written[0]) == 2 + dut.delay
