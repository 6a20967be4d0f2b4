"""Random work on simulated hardware; `loralith soak` runs it.

- `random_products`, `products`: random products, compared with numpy.
- `lists`, `list_runner`: random raw command lists, compared with the oracle of `verif.lists`.
- `lanes`: random operands for the vector unit's lanes, compared with a soft float.
"""

from loralith.errors import LoralithError

__all__ = ["SoakError"]


class SoakError(LoralithError):
    """A soak that cannot be run, or a file that is none of its own."""
