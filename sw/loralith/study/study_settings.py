"""What a study is told, checked as a whole before anything runs."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from loralith.errors import LoralithError
from loralith.formats.checkpoint import settings_hash
from loralith.methods.settings import PROJECTIONS, EvaluationSettings, FinetuneSettings


@dataclass(frozen=True)
class StudySettings:
    """The same run for every scheme and seed.

    digit, rank, alpha, images, batch, lr, steps, targets, evaluation : as in `FinetuneSettings`.
    curve_every : steps between the held-out losses of a run's curve. curve_rounds : passes over the images for each of them.
    probes : steps whose gradients are compared with FP64 and whose rounding to zero is counted.

    Raises LoralithError.
    """

    digit: int = 8
    rank: int = 4
    alpha: float = 8.0
    images: int = 20
    batch: int = 4
    lr: float = 3e-3
    steps: int = 200
    curve_every: int = 25
    curve_rounds: int = 2
    probes: tuple[int, ...] = (1, 10, 50, 100, 199)
    targets: tuple[str, ...] = PROJECTIONS
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)

    def __post_init__(self) -> None:
        self.run(0)
        for name in ("curve_every", "curve_rounds"):
            if getattr(self, name) < 1:
                raise LoralithError(f"{name} must be at least 1, not {getattr(self, name)}")
        if list(self.probes) != sorted(set(self.probes)) or any(not 0 <= step < self.steps for step in self.probes):
            raise LoralithError(f"probes must be rising steps in 0..{self.steps - 1}, not {list(self.probes)}")

    def run(self, seed: int) -> FinetuneSettings:
        """The settings of one run, as `finetune` takes them; nothing is written to their folder."""
        return FinetuneSettings(
            Path("."),
            digit=self.digit,
            rank=self.rank,
            alpha=self.alpha,
            images=self.images,
            batch=self.batch,
            lr=self.lr,
            steps=self.steps,
            seed=seed,
            targets=self.targets,
            evaluation=self.evaluation,
        )

    def identity(self) -> Mapping[str, Any]:
        """JSON values."""
        own = {**asdict(self), "probes": list(self.probes), "targets": list(self.targets)}
        if self.targets == PROJECTIONS:
            del own["targets"]  # as in studies from before there was a choice
        return own

    @classmethod
    def from_identity(cls, values: Mapping[str, Any]) -> "StudySettings":
        """The inverse of `identity`."""
        targets = tuple(values.get("targets", PROJECTIONS))
        known = {**values, "targets": targets, "probes": tuple(values["probes"]), "evaluation": EvaluationSettings(**values["evaluation"])}
        return cls(**known)

    @property
    def hash(self) -> str:
        return settings_hash(self.identity())

    def shortened(self, steps: int) -> "StudySettings":
        """The same with fewer or more steps; probes past the end are left out."""
        return replace(self, steps=steps, probes=tuple(step for step in self.probes if step < steps))
