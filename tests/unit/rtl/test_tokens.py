"""The semaphores against a dictionary of counts, under random masks."""

import random

from loralith.rtl.tokens import Tokens
from loralith.spec.commands import SEMAPHORE_MAX, SEMAPHORES
from loralith.verif.block_test import simulate


def test_tokens_are_taken_and_given_all_at_once():
    dut = Tokens()
    rng = random.Random(1)
    waiters = [getattr(dut, n) for n in Tokens.WAITERS]
    signallers = [getattr(dut, n) for n in Tokens.SIGNALLERS]
    seen = {"full": 0, "both": 0, "waited": 0, "empty mask": 0, "cleared": 0}

    def new_mask():
        return rng.choice([0, 1 << rng.randrange(4), 1 << rng.randrange(SEMAPHORES), rng.getrandbits(2)])

    async def bench(ctx):
        counts = [0] * SEMAPHORES
        asks: dict[object, int | None] = dict.fromkeys(waiters + signallers)
        able, room, chosen = [], [], False  # of the cycle before; whether it chose
        for cycle in range(6000):
            giving = 0.9 if cycle // 500 % 2 else 0.2  # fill, then run empty
            for port in asks:
                if asks[port] is None and rng.random() < (giving if port in signallers else 1 - giving):
                    asks[port] = new_mask()
                    ctx.set(port.mask, asks[port])
                ctx.set(port.valid, asks[port] is not None)
            clear = rng.random() < 0.002
            ctx.set(dut.clear, clear)
            _, _, *ready = await ctx.tick().sample(*(port.ready for port in asks))
            granted = [port for port, r in zip(asks, ready, strict=True) if r and asks[port] is not None]
            took = [asks[p] for p in granted if p in waiters]
            gave = [asks[p] for p in granted if p in signallers]
            assert len(took) <= 1
            assert len(gave) <= 1
            chosen = not chosen and bool(able or room)
            assert bool(took) == (chosen and bool(able) and not clear), "someone who can is served"
            assert bool(gave) == (chosen and bool(room) and not clear)
            assert all(p in able[:1] or p in room[:1] for p in granted)
            able = [p for p in waiters if asks[p] is not None and all(counts[i] for i in range(SEMAPHORES) if asks[p] >> i & 1)]
            room = [
                p
                for p in signallers
                if asks[p] is not None and all(counts[i] < SEMAPHORE_MAX for i in range(SEMAPHORES) if asks[p] >> i & 1)
            ]
            seen["full"] += sum(asks[p] is not None for p in signallers) > len(room)
            seen["waited"] += sum(asks[p] is not None for p in waiters) > len(able)
            seen["both"] += bool(took and gave and took[0] & gave[0])
            seen["empty mask"] += 0 in took
            seen["cleared"] += clear
            if clear:
                able, room = [], []
            for i in range(SEMAPHORES):
                counts[i] += sum(m >> i & 1 for m in gave) - sum(m >> i & 1 for m in took)
                counts[i] *= not clear
            for port in granted:
                asks[port] = None
            assert [ctx.get(dut.counts[i]) for i in range(SEMAPHORES)] == counts
        assert all(seen.values()), seen

    simulate(dut, bench)
