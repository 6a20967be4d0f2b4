"""How long an answer takes on this line, learned from the answers before."""

from __future__ import annotations

__all__ = ["AnswerTime"]

FIRST_PACE = 1e-3
MARGIN = 0.02
DECAY = 0.9
MOST_DOUBLINGS = 3


class AnswerTime:
    """A delay that every answer has, and seconds per byte that is on its way before it.

    A simulated board is slower than a real one by orders of magnitude, and a USB bridge may hold bytes back for 16 ms.

    Parameter: longest, no limit is over that.
    """

    def __init__(self, longest: float) -> None:
        self._longest = longest
        self._delay: float | None = None
        self._pace = self._least = FIRST_PACE

    def sample(self, seconds: float, nbytes: int) -> None:
        """An answer came ``seconds`` after its request, when ``nbytes`` were on their way: requests and answers, this one included."""
        self._delay = seconds if self._delay is None else min(self._delay, seconds)
        self._least = min(self._least, seconds / nbytes)  # answers to short requests alone do not tell the delay from the pace
        self._pace = max(DECAY * self._pace, (seconds - self._delay) / nbytes, self._least)

    def limit(self, nbytes: int, attempt: int) -> float:
        """Seconds after which an answer is taken for lost, with ``nbytes`` on the way before it; ``attempt`` counts from 0."""
        limit = MARGIN + 3 * (self._delay or 0.0) + 4 * self._pace * nbytes
        return min(self._longest, limit * 2 ** min(attempt, MOST_DOUBLINGS))
