"""What a scheme loses: shares of values that saturate, and of values that round to zero, by tensor."""

from typing import Any

from torch import Tensor

from loralith.lora.health import Health
from loralith.spec.scheme import FQT


class Tally:
    """An observer of the reference. Saturation is counted in every pass, rounding to zero while `probing`.

    Its passes are those of `loralith.verif.reference_attachment.Observer`. `warnings` holds the messages of `Health`.
    """

    def __init__(self, scheme: FQT) -> None:
        self.probing = False
        self.warnings: list[str] = []
        self.health = Health(scheme, self.warnings.append)
        self.saturated: dict[str, list[int]] = {}
        self.vanished: dict[str, list[int]] = {}

    @staticmethod
    def _add(table: dict[str, list[int]], tensor: str, part: int, whole: int) -> None:
        entry = table.setdefault(tensor, [0, 0])
        entry[0] += part
        entry[1] += whole

    def _saturation(self, layer: str, saturated: Any, tensors: dict[str, Tensor]) -> None:
        for name, q in tensors.items():
            self._add(self.saturated, name, saturated[name], q.numel())
            self.health.values(layer, name, saturated[name], q.numel())

    def _underflow(self, name: str, before: Tensor, after: Tensor) -> None:
        if self.probing:
            alive = before != 0
            self._add(self.vanished, name, int((alive & (after == 0)).sum()), int(alive.sum()))

    def forward(self, name: str, x: Tensor, forward: Any) -> None:
        self._saturation(name, forward.saturated, {"X": forward.xq, "A": forward.aq, "B": forward.bq, "H": forward.hq})
        self._underflow("X", x, forward.xq)
        self._underflow("H", forward.h_acc, forward.hq)

    def backward(self, name: str, dy: Tensor, forward: Any, backward: Any) -> None:
        self._saturation(name, backward.saturated, {"dY": backward.dyq, "dH": backward.dhq})
        self._underflow("dY", dy, backward.dyq)
        self._underflow("dH", backward.dh_acc, backward.dhq)
        self.health.gradients(
            name,
            dy=bool(dy.any()),
            dyq=bool(backward.dyq.any()),
            b=bool(forward.bq.any()),
            da=bool(backward.da_acc.any()),
            db=bool(backward.db_acc.any()),
        )

    @staticmethod
    def _shares(table: dict[str, list[int]]) -> dict[str, float]:
        return {name: part / whole if whole else 0.0 for name, (part, whole) in sorted(table.items())}

    def shares(self) -> dict[str, dict[str, float]]:
        """`saturated` and `vanished`: share by tensor, of all values and of those that were not zero before."""
        return {"saturated": self._shares(self.saturated), "vanished": self._shares(self.vanished)}
