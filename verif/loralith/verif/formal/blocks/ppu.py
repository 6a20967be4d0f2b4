"""Requantization against docs/numerics.md, section 2, and the index hash against its definition, both from port to port.

What a rounded result is, is said twice: as what rounding means, in inequalities, and by that page's formulas.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value

from loralith.rtl.ppu import IndexHash, LaneScale, PostProcessor
from loralith.spec.commands import OutMode
from loralith.spec.numerics import Q8_MAX, SHIFT_MAX, hash32
from loralith.verif.mutation import Change

from ..harness import Harness
from ..proof import Method, Mutant, Proof

__all__ = ["PROOFS"]

LANES = 2


def _later(h: Harness, value, cycles: int) -> Value:
    """``value`` that many cycles ago."""
    value = Value.cast(value)
    for i in range(cycles):
        register = Signal(value.shape(), name=f"later{i + 1}", reset_less=True)
        h.m.d.sync += register.eq(value)
        value = register
    return value


@dataclass
class Lane:
    """What was asked for of the column that is at the outputs, and what came."""

    value: Value
    mantissa: Value
    shift: Value
    product: Value
    masked: Value
    random: Value
    quantized: Value
    int32: Value
    clipped: Value


def _product(h: Harness, dut: PostProcessor, lane: int) -> tuple[Value, int]:
    """value * mantissa of a lane, and how many cycles after it came in.

    By the halves of the value and of the block's own copies, which an invariant ties to what came in: no solver shows soon that two
    multipliers are one.
    """
    value = h.inside(dut, "values_r").word_select(lane, 32)
    mantissa = h.inside(dut, "scales_r").word_select(lane, LaneScale.as_shape().size)[:16]
    h.invariant(value == _later(h, dut.values.word_select(lane, 32), 1))
    h.invariant(mantissa == _later(h, dut.scales[lane].m, 1))
    return ((value[16:].as_signed() * mantissa) << 16) + value[:16] * mantissa, 1


def _column(h: Harness, dut: PostProcessor, delay: int) -> tuple[Value, list[Lane]]:
    """Whether a column came in ``delay`` cycles ago, and its lanes."""
    here = Value.cast(dut.valid)
    for _ in range(delay):  # a reset forgets all columns
        here = h.past(here)
    lanes = []
    for i in range(dut.lanes):
        value, scale = dut.values.word_select(i, 32).as_signed(), dut.scales[i]
        product, after = _product(h, dut, i)
        lanes.append(
            Lane(
                value=_later(h, value, delay),
                mantissa=_later(h, scale.m, delay),
                shift=_later(h, scale.n, delay),
                product=_later(h, product, delay - after),
                masked=_later(h, dut.mask[i], delay),
                random=_later(h, dut.hashes.word_select(i, 32), delay - dut.hash_delay),
                quantized=dut.quantized.word_select(i, 8).as_signed(),
                int32=dut.int32.word_select(i, 32).as_signed(),
                clipped=dut.saturated[i],
            )
        )
    return here, lanes


def _nearest(p: Value, q: Value, n: int) -> tuple[Value, Value]:
    """Whether q is p / 2**n to nearest, and whether that was clipped, as what it means."""
    step = 1 << n
    high, low = p << 1 >= (2 * Q8_MAX + 1) * step, p << 1 <= -(2 * Q8_MAX + 1) * step
    off = (p - (q << n)) << 1
    within = (off < step) & (off > -step)
    if n:
        within = within | (((off == step) | (off == -step)) & ~q[0])
    return Mux(high, q == Q8_MAX, Mux(low, q == -Q8_MAX, within)), high | low


def _offset(random: Value, n: int) -> Value:
    """u of the page."""
    if n == 0:
        return Const(0)
    return random[32 - n :] if n <= 32 else Cat(Const(0, n - 32), random)


def _drawn(p: Value, q: Value, n: int, random: Value) -> tuple[Value, Value]:
    """Whether q is p / 2**n rounded stochastically, and whether that was clipped, as what it means."""
    step, total = 1 << n, p + _offset(random, n)
    over, under = total >= (Q8_MAX + 1) * step, total < -Q8_MAX * step
    floor = (total >= q << n) & (total < (q << n) + step)
    return Mux(over, q == Q8_MAX, Mux(under, q == -Q8_MAX, floor)), over | under


def _formula(p: Value, q: Value, n: int, random: Value, stochastic: Value) -> tuple[Value, Value]:
    """The same for both roundings, as the page has it."""
    even = (p + (1 << (n - 1)) - 1 + ((p >> n) & 1)) >> n if n else p
    quotient = Mux(stochastic, (p + _offset(random, n)) >> n, even)
    over, under = quotient > Q8_MAX, quotient < -Q8_MAX
    return q == Mux(over, Q8_MAX, Mux(under, -Q8_MAX, quotient)), over | under


def rounding(shifts: tuple[int, ...], lanes: int) -> Callable[[Harness], None]:
    def build(h: Harness) -> None:
        dut = h.block(PostProcessor(lanes))
        here, column = _column(h, dut, dut.delay)
        stochastic = _later(h, dut.stochastic, dut.delay)
        int8 = _later(h, dut.out_mode == OutMode.INT8, dut.delay)
        nearest, drawn, formula = [], [], []
        for lane in column:
            p, q, random = lane.product, lane.quantized, lane.random
            for n in shifts:  # a case for each: a solver finds its way faster than through shifts of any amount
                for claim, applies, (right, out) in (
                    (nearest, ~stochastic, _nearest(p, q, n)),
                    (drawn, stochastic, _drawn(p, q, n, random)),
                    (formula, 1, _formula(p, q, n, random, stochastic)),
                ):
                    claim.append(~(here & (lane.shift == n) & applies) | (right & (lane.clipped == (out & lane.masked & int8))))
        h.always(
            "nearest",
            "to nearest: at most half a step off, at exactly half to the even one; clipped to +-127 and counted when out of that",
            Cat(nearest).all(),
        )
        h.always(
            "stochastic",
            "stochastic: the floor of product plus the top n bits of the hash; clipped to +-127 and counted when out of that",
            Cat(drawn).all(),
        )
        h.always("formula", "both roundings as docs/numerics.md writes them", Cat(formula).all())
        h.always(
            "int32",
            "an INT32 result (mantissa 1, shift 0) is the sum itself",
            Cat(~(here & (lane.mantissa == 1) & (lane.shift == 0)) | (lane.int32 == lane.value) for lane in column).all(),
        )
        h.always("never_minus_128", "no quantized result is -128", Cat(~here | (lane.quantized >= -Q8_MAX) for lane in column).all())
        lane = column[0]
        tie = (lane.shift == 20) & (lane.product == 5 << 19) & (lane.quantized == 2)
        h.reach("tie", "two and a half is met, and rounds to two", here & ~stochastic & tie)
        h.reach("clipped", "a result is clipped at -127", here & lane.clipped & (lane.quantized == -Q8_MAX))

    return build


def maximum(count: int, value_bits: int = 32, mantissa_bits: int = 16) -> Callable[[Harness], None]:
    def build(h: Harness) -> None:
        dut = h.block(PostProcessor(count))
        for i in range(count):
            value = dut.values.word_select(i, 32).as_signed()
            h.assume((value == value[:value_bits].as_signed()) & (dut.scales[i].m[mantissa_bits:] == 0))
        here, lanes = _column(h, dut, dut.maximum_delay)
        sizes = [(lane.masked, Mux(lane.product < 0, -lane.product, lane.product)) for lane in lanes]
        h.always(
            "maximum",
            "the maximum is no less than the magnitude of any product of the lanes that count, before shift and clipping",
            ~here | Cat(~counts | (dut.maximum >= size) for counts, size in sizes).all(),
        )
        met = Cat(counts & (dut.maximum == size) for counts, size in sizes).any()
        none = ~Cat(counts for counts, _ in sizes).any()
        h.always(
            "maximum_met",
            "the maximum is the magnitude of one of them, or zero where none counts",
            ~here | Mux(none, dut.maximum == 0, met),
        )

    return build


class Word:
    """32 bits of the solver's, with the operators that the definition uses on its numbers."""

    def __init__(self, m: Module, value: Value) -> None:
        self._m, self.value = m, Signal(32)  # a wire of its own: an expression would be written out anew at every use
        m.d.comb += self.value.eq(value)

    def __add__(self, other: Word) -> Word:
        return Word(self._m, self.value + other.value)

    def __xor__(self, other: Word) -> Word:
        return Word(self._m, self.value ^ other.value)

    def __and__(self, mask: int) -> Word:
        return Word(self._m, self.value & mask)

    def __lshift__(self, amount: int) -> Word:
        return Word(self._m, self.value << amount)

    def __rshift__(self, amount: int) -> Word:
        return Word(self._m, self.value >> amount)


def hashing(h: Harness) -> None:
    dut = h.block(IndexHash(LANES), valid=1)
    h.assume(~h.reset)
    full, key1 = _later(h, Const(1), dut.delay), _later(h, dut.key1, dut.delay - dut.key1_delay)
    equal = []
    for i in range(LANES):
        # `keyed + column` is the index plus the key's first word.
        keyed, column = (Word(h.m, _later(h, value, dut.delay)) for value in (dut.keyed.word_select(i, 32), dut.column))
        defined = hash32((column, Word(h.m, key1)), keyed)  # pyright: ignore[reportArgumentType]  # numbers of the solver's
        equal.append(~full | (dut.hashes.word_select(i, 32) == defined.value))
    h.always("hash", "the hash of index and key is the definition's, which is run on the solver's values", Cat(equal).all())


MUTANTS_ROUNDING = (
    Mutant("nearest", Change("RequantizeLane", "even", "_f[:47].any() | _b", "_f[:47].any()", "A half of an odd number is rounded down.")),
    Mutant("nearest", Change("RequantizeLane", "over", "_a | ((_w == 255 - _q) & ~_u)", "_a", "-128 is not clipped.")),
    Mutant(
        "nearest",
        Change(
            "RequantizeLane",
            "fits",
            "(_a & ~_b[7:]).any()",
            "(_a & ~_b[7:])[1:].any()",
            "Bit 7 of the quotient does not count as too large.",
        ),
    ),
    Mutant(
        "stochastic",
        Change("RequantizeLane", "carried", "_f[16:] + _h", "_f[15:47] + _h", "The random number is added half a place too high."),
    ),
    Mutant("formula", Change("RequantizeLane", "up", "Mux(_a, _b, _c)", "_b", "Every rounding is stochastic.")),
    Mutant("formula", Change("RequantizeLane", "up", "Mux(_a, _b, _c)", "_c", "Every rounding is to nearest.")),
    Mutant(
        "formula", Change("RequantizeLane", "product", "_h + _l[16:]", "_h + _l[17:]", "The two halves of a product are added a bit apart.")
    ),
    Mutant("formula", Change("RequantizeLane", "high", "_v[16:].as_signed() * _m", "_v[16:] * _m", "Sums are taken as unsigned.")),
    Mutant("int32", Change("RequantizeLane", "int32_4", "_t[:32]", "_t[1:33]", "An INT32 result is shifted right by one.")),
    Mutant(
        "never_minus_128",
        Change(
            "RequantizeLane",
            "clipped",
            "Mux(_a, 256 - _b, _b)",
            "Mux(_a, 255 - _b, _b)",
            "Negative results are clipped at -128 instead of -127.",
        ),
    ),
)
MUTANTS_LANES = (
    Mutant("formula", Change("PostProcessor", "lane.scale", "_s[_i]", "_s[0]", "All rows take the first row's scale.")),
    Mutant(
        "formula",
        Change(
            "PostProcessor",
            "lane.hash",
            "_h.word_select(_i, 32)",
            "_h.word_select(0, 32)",
            "All rows are rounded with the first row's random number.",
        ),
    ),
)
MUTANTS_MAXIMUM = (
    Mutant(
        "maximum",
        Change(
            "MaximumTree",
            "register",
            "Mux(_a[PRODUCT_BITS], _b, _c)",
            "Mux(_a[PRODUCT_BITS], _c, _b)",
            "The smaller of two magnitudes is kept.",
        ),
    ),
    Mutant("maximum", Change("MaximumTree", "maximum", "_k[1:] + _k[0]", "_k[1:]", "A negative product counts one too small.")),
    Mutant("maximum_met", Change("RequantizeLane", "key", "Mux(_a, _b, 0)", "Mux(_a, _b, 2)", "Rows that do not count have magnitude 1.")),
)
MUTANTS_HASH = (
    Mutant("hash", Change("IndexHash", "x", "_c ^ (_c >> 16)", "_c ^ (_c >> 15)", "The hash's last shift is by 15 instead of 16.")),
    Mutant("hash", Change("IndexHash", "x", "_x + self.key1", "_x", "The second key word is left out.")),
)

SOME = (0, 1, 20, 32, 33, 47)
"""No shift, the least, a usual one, both sides of where the hash runs out of bits, and the greatest."""

EVERY = tuple(range(SHIFT_MAX + 1))


def _some(shifts: tuple[int, ...]) -> str:
    return "shifts " + ", ".join(map(str, shifts))


FLUSHED = Method.induction(PostProcessor.delay + 1, "delay + 1")
"""Nothing feeds back: after ``delay`` cycles from any state all that is in the pipeline came in by the ports."""
MEASURED = {count: Method.induction(PostProcessor.maximum_delay_of(count) + 1, "maximum_delay + 1") for count in (5, 17)}
HASHED = Method.bounded(IndexHash.delay + 2, "delay + 2")

PROOFS = (
    Proof("rounding", "ppu", rounding(SOME, 1), FLUSHED, MUTANTS_ROUNDING, bound=_some(SOME)),
    *(
        Proof(f"rounding_all_{claim}", "ppu", rounding(EVERY, 1), FLUSHED, only=(claim,), slow=True, bound="every shift")
        for claim in ("nearest", "stochastic", "formula")
    ),
    Proof(
        "lanes", "ppu", rounding(SOME, LANES), FLUSHED, MUTANTS_LANES, only=("formula",), slow=True, bound=f"{LANES} lanes, {_some(SOME)}"
    ),
    Proof("maximum", "ppu", maximum(5), MEASURED[5], MUTANTS_MAXIMUM, bound="5 lanes"),
    Proof("maximum_of_17", "ppu", maximum(17, 3, 1), MEASURED[17], slow=True, bound="17 lanes, sums of 3 bits and mantissas of 1"),
    Proof("hashing", "ppu", hashing, HASHED, MUTANTS_HASH, bound=f"{LANES} lanes, one column per cycle, no reset"),
)
