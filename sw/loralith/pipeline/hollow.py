"""Hollowed Net on a pipeline's U-Net (Cho et al., 2024): LoRA on what is kept, with the output of the inner blocks as a stored constant."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from loralith.diffusion.determinism import generator
from loralith.formats.run_folder import BOUNDARY
from loralith.methods.hollow.boundary_store import BoundaryStore
from loralith.methods.hollow.hollowed_unet import hollowed, tapped
from loralith.methods.hollow.parts import choose
from loralith.methods.options import HollowOptions, SettingsError
from loralith.methods.training_method import Interrupted
from loralith.pipeline.draws import Pictures, Sampler
from loralith.pipeline.families.base import Family
from loralith.pipeline.pipeline_method import Lora
from loralith.pipeline.settings import PipelineSettings
from loralith.progress import Steps

__all__ = ["HollowedNet"]


class HollowedNet(Lora):
    """``model`` is the hollowed U-Net while it trains; `result_weights` puts the inner blocks back, which stay in the host's memory.

    A stored batch is the batch of step 0, 1, ... of LoRA on the same settings; where there are more steps than batches, later rounds take
    them in orders of their own. Boundary tensors are computed in torch, in FP32.
    """

    def __init__(self, settings: PipelineSettings, family: Family, identity: dict[str, Any]) -> None:
        unet: Any = family.denoiser
        self.hollow = choose(unet, settings.hollow)
        self.batches = HollowOptions(samples=settings.samples_stored).prepared(settings.steps, settings.batch)
        self.identity = {**identity, "steps": self.batches}
        self.store: BoundaryStore | None = None
        self._value: Tensor | None = None
        super().__init__(settings, family)
        self._inner: dict[str, nn.Module] = {}
        self._leave_out()

    def layer_names(self, settings: PipelineSettings, family: Family) -> list[str]:
        names = [name for name in super().layer_names(settings, family) if not self.hollow.holds(name)]
        if settings.train == "behind":
            names = [name for name in names if name.startswith("up_blocks.")]
        if not names:
            raise SettingsError(f"without {', '.join(self.hollow.names)} the model keeps no layer that is to be trained; leave out less")
        return names

    @property
    def target_modules(self) -> list[str]:
        return self.names

    def _leave_out(self) -> None:
        unet: Any = self.model
        count, depth = len(unet.down_blocks), self.hollow.depth
        names = self.hollow.names if depth == 0 else (*self.hollow.names, f"down_blocks.{count - depth - 1}.downsamplers")
        self._inner = {name: unet.get_submodule(name) for name in names}
        self._boundary = hollowed(unet, self.hollow)

    def _put_back(self) -> None:
        for name, block in self._inner.items():
            parent, _, last = name.rpartition(".")
            setattr(self.model.get_submodule(parent), last, block)

    @contextmanager
    def result_weights(self) -> Iterator[None]:
        self._put_back()
        try:
            with super().result_weights():
                yield
        finally:
            self._leave_out()

    def prepare(self, sampler: Sampler, stopping: Callable[[], bool]) -> None:
        """Stage 1: the full frozen U-Net, forward, once for each stored batch. Raises Interrupted where it is asked to stop."""
        folder = self.settings.output / BOUNDARY
        self.store = store = BoundaryStore(folder, self.identity, self.batches, int8=self.settings.boundary == "int8")
        if store.complete:
            return
        progress = Steps("boundary tensors", self.batches - store.next)
        unet: Any = self.model
        self._put_back()
        try:
            with tapped(unet, self.hollow) as found:
                while not store.complete:
                    sampler.losses(unet, _only(sampler, store.next))
                    store.add(found[0])
                    progress.step()
                    if stopping() and not store.complete:
                        raise Interrupted(0, self.settings.output)
        finally:
            self._leave_out()

    def batch_of(self, step: int) -> int:
        """The stored batch that a step reads."""
        turn, place = divmod(step, self.batches)
        if turn == 0:
            return place
        return int(torch.randperm(self.batches, generator=generator("pipeline boundary order", self.settings.seed, turn))[place])

    def drawn(self, step: int, sampler: Sampler) -> list[list[Pictures]]:
        assert self.store is not None
        batch = self.batch_of(step)
        self._boundary.value = self.store.read(batch)
        return [[_only(sampler, batch)]]

    @property
    def label(self) -> str:
        return f"Hollowed Net without {', '.join(self.hollow.names)}, LoRA rank {self.settings.rank}"


def _only(sampler: Sampler, batch: int) -> Pictures:
    ((pictures,),) = sampler.batches(batch)
    return pictures
