"""LoRA on a Stable Diffusion folder in a loop of one's own: stock diffusers and accelerate, with the adapter's layers on a loralith device.

    python examples/accelerate_lora.py MODEL PHOTOS "a photo of my cat" OUTPUT --steps 100

MODEL is a folder of `save_pretrained`, PHOTOS holds square PNG or JPEG files. `loralith finetune` does more; this shows the two calls
that a loop needs: `attach` before it, and `step_begin` in it, since a step of accumulated gradients has several backward passes.
"""

import argparse
import itertools
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import StableDiffusionPipeline
from diffusers.training_utils import compute_snr
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict
from PIL import Image
from torch.nn import functional

import loralith


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("prompt")
    parser.add_argument("output", type=Path)
    parser.add_argument("--device", default="direct", help="of loralith: direct, reference, verilator (default: direct)")
    parser.add_argument("--config", default="base", help="the device's configuration (default: base)")
    parser.add_argument("--resolution", type=int, default=512)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--accumulation", type=int, default=2)
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--lr", type=float, default=1e-4)
    return parser.parse_args()


@torch.no_grad()
def encode(pipe: StableDiffusionPipeline, photos: Path, prompt: str, resolution: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents [N, 4, h, w] of all photos, and the prompt's embedding [1, tokens, D]."""
    found = []
    for path in sorted(path for path in photos.iterdir() if path.suffix.lower() in (".png", ".jpg", ".jpeg")):
        image = Image.open(path).convert("RGB").resize((resolution, resolution))
        pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None] / 127.5 - 1
        found.append(pipe.vae.encode(pixels).latent_dist.mean * pipe.vae.config.scaling_factor)
    return torch.cat(found), pipe.encode_prompt(prompt, "cpu", 1, False)[0]


def main() -> None:
    args = parse()
    set_seed(0)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=args.accumulation)
    pipe = StableDiffusionPipeline.from_pretrained(args.model, dtype=torch.float32, safety_checker=None)
    latents, text = encode(pipe, args.photos, args.prompt, args.resolution)
    unet, scheduler = pipe.unet.requires_grad_(False), pipe.scheduler
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    unet.add_adapter(LoraConfig(r=args.rank, lora_alpha=args.rank, init_lora_weights="gaussian", target_modules=targets))
    unet.enable_gradient_checkpointing()
    optimizer = torch.optim.AdamW((p for p in unet.parameters() if p.requires_grad), lr=args.lr)
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(latents), batch_size=1, shuffle=True)
    model, optimizer, data = accelerator.prepare(unet, optimizer, data)

    with loralith.open_device(args.device, config=args.config) as device:
        attachment = loralith.attach(model, device)  # every LoRA product now runs there
        step, batches = 0, itertools.count()
        while step < args.steps:
            for (clean,) in data:
                attachment.step_begin(next(batches))  # random numbers of its own for each batch's rounding
                with accelerator.accumulate(model):
                    noise = torch.randn_like(clean)
                    times = torch.randint(0, scheduler.config.num_train_timesteps, (len(clean),))
                    noised = scheduler.add_noise(clean, noise, times)
                    prediction = model(noised, times, text.expand(len(clean), -1, -1)).sample
                    weights = (5.0 / compute_snr(scheduler, times)).clamp(max=1.0)  # min-SNR, of a model that predicts noise
                    errors = functional.mse_loss(prediction, noise, reduction="none").mean(dim=(1, 2, 3))
                    loss = (errors * weights).mean()
                    accelerator.backward(loss)
                    optimizer.step()
                    optimizer.zero_grad()
                if accelerator.sync_gradients:
                    step += 1
                    print(f"step {step}: loss {loss.item():.5f}")
                    if step == args.steps:
                        break
        loralith.detach(model)

    weights = convert_state_dict_to_diffusers(get_peft_model_state_dict(accelerator.unwrap_model(model)))
    StableDiffusionPipeline.save_lora_weights(args.output, unet_lora_layers=weights)


if __name__ == "__main__":
    main()
