"""How long an answer takes on this line, learned from the answers before."""

from __future__ import annotations

__all__ = ["AnswerTime"]

FIRST_PACE = 1e-3
MARGIN = 0.02
DECAY = 0.9
LONGEST = 4.0


class AnswerTime:
    """A delay that every answer has, and seconds per byte that is on its way before it.

    A simulated board is slower than a real one by orders of magnitude, and a USB bridge may hold bytes back for 16 ms.
    """

    def __init__(self) -> None:
        self._delay = LONGEST
        self._pace = FIRST_PACE

    def sample(self, seconds: float, nbytes: int) -> None:
        """An answer came ``seconds`` after its request, when ``nbytes`` were on their way: requests and answers, this one included."""
        self._delay = min(self._delay, seconds)
        self._pace = max(DECAY * self._pace, (seconds - self._delay) / nbytes)

    def limit(self, nbytes: int, attempt: int) -> float:
        """Seconds after which an answer is taken for lost; ``attempt`` counts from 0."""
        delay = 0.0 if self._delay == LONGEST else self._delay
        return min(LONGEST, (MARGIN + 3 * delay + 4 * self._pace * nbytes) * 2 ** min(attempt, 3))
