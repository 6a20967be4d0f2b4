"""X, W, A, B and dY of every LoRA layer in one step of an FP32 fine-tune."""

from dataclasses import dataclass

import torch
from peft.tuners.lora import Linear
from torch import Tensor

from loralith.diffusion.data import personal_images
from loralith.diffusion.determinism import repeatable
from loralith.diffusion.objective import draw_step
from loralith.diffusion.peft_adapter import adapter_parameters, add_adapter
from loralith.diffusion.unet import load_model
from loralith.methods.settings import FinetuneSettings
from loralith.training.loop import step_loss
from loralith.training.sizes import check_sizes


@dataclass(frozen=True)
class Taken:
    """One layer: name, x [T, I], w [O, I], a [r, I], b [O, r], dy [T, O], float32; the diffusion step of each of the T rows."""

    name: str
    x: Tensor
    w: Tensor
    a: Tensor
    b: Tensor
    dy: Tensor
    timesteps: tuple[int, ...]


def _rows(x: Tensor, dy: Tensor, count: int) -> Tensor:
    """Numbers of `count` rows, rising: those with the largest values of x and of dy, the others evenly spread."""
    chosen = {int(t.abs().amax(1).argmax()) for t in (x, dy)}
    spread = torch.linspace(0, len(x) - 1, max(2, count - len(chosen))).round().int().tolist()
    for row in [*spread, *range(len(x))]:
        if len(chosen) < count:
            chosen.add(row)
    return torch.tensor(sorted(chosen))


def take(settings: FinetuneSettings, rows: int) -> list[Taken]:
    """Trains settings.steps steps and takes the next one's tensors, `rows` rows of X and dY of each layer, in order of name."""
    check_sizes(settings)
    images = personal_images(settings.digit, settings.images, settings.seed)
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    with repeatable():
        unet, encoder = load_model()
        model = add_adapter(unet, rank=settings.rank, alpha=settings.alpha, targets=settings.targets, seed=settings.seed)
        optimizer = torch.optim.AdamW(adapter_parameters(model).values(), lr=settings.lr, weight_decay=0.0)
        model.train()
        for step in range(settings.steps):
            optimizer.zero_grad()
            step_loss(model, encoder, images, settings, step).backward()
            optimizer.step()
        layers = sorted((name, module) for name, module in model.named_modules() if isinstance(module, Linear))
        for name, module in layers:

            def hook(module: Linear, inputs: tuple[Tensor, ...], output: Tensor, name: str = name) -> None:
                x = inputs[0].detach().reshape(-1, inputs[0].shape[-1]).clone()
                output.register_hook(lambda dy: seen.update({name: (x, dy.reshape(-1, dy.shape[-1]).clone())}))

            module.register_forward_hook(hook)
        step_loss(model, encoder, images, settings, settings.steps).backward()
    draw = draw_step("finetune", settings.seed, settings.steps, batch=settings.batch, images=images, dropout=settings.dropout)
    taken = []
    for name, module in layers:
        x, dy = seen[name]
        kept = _rows(x, dy, min(rows, len(x)))
        timesteps = tuple(int(draw.timesteps[int(row) * settings.batch // len(x)]) for row in kept)
        base, adapter = module.get_base_layer(), next(iter(module.active_adapters))
        a, b = module.lora_A[adapter].weight, module.lora_B[adapter].weight
        values = (x[kept], base.weight, a, b, dy[kept])
        short = name.removeprefix("base_model.model.")
        taken.append(Taken(short, *(value.detach().clone() for value in values), timesteps))  # type: ignore[arg-type]
    return taken
