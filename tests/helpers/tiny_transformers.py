"""Tiny models with random weights: denoisers of diffusers that are no U-Nets, and text models, each with a call that feeds it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Made = tuple[nn.Module, Callable[[], Tensor]]
"""A model, and a function that runs it on inputs drawn when it was made."""


def _sizes(heads: int = 2, width: int = 8, layers: int = 1) -> dict[str, Any]:
    return {"num_attention_heads": heads, "attention_head_dim": width, "num_layers": layers}


def flux() -> Made:
    from diffusers import FluxTransformer2DModel

    model = FluxTransformer2DModel(
        **_sizes(),
        patch_size=1,
        in_channels=4,
        num_single_layers=1,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        axes_dims_rope=(2, 2, 4),
    )
    inputs = {"hidden_states": torch.randn(1, 4, 4), "encoder_hidden_states": torch.randn(1, 3, 16)}
    inputs |= {"pooled_projections": torch.randn(1, 16), "timestep": torch.tensor([0.5])}
    inputs |= {"img_ids": torch.randn(4, 3), "txt_ids": torch.zeros(3, 3)}
    return model, lambda: model(**inputs).sample


def flux2() -> Made:
    from diffusers import Flux2Transformer2DModel

    model = Flux2Transformer2DModel(
        **_sizes(), in_channels=4, num_single_layers=1, joint_attention_dim=16, timestep_guidance_channels=16, axes_dims_rope=(2, 2, 2, 2)
    )
    inputs = {"hidden_states": torch.randn(1, 4, 4), "encoder_hidden_states": torch.randn(1, 3, 16)}
    inputs |= {"timestep": torch.tensor([0.5]), "guidance": torch.tensor([3.5])}
    inputs |= {"img_ids": torch.randn(4, 4), "txt_ids": torch.zeros(3, 4)}
    return model, lambda: model(**inputs).sample


def sd3() -> Made:
    from diffusers import SD3Transformer2DModel

    model = SD3Transformer2DModel(
        **_sizes(layers=2),
        sample_size=4,
        in_channels=4,
        out_channels=4,
        joint_attention_dim=16,
        caption_projection_dim=16,
        pooled_projection_dim=16,
        pos_embed_max_size=4,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    inputs = {"hidden_states": torch.randn(2, 4, 4, 4), "encoder_hidden_states": torch.randn(2, 3, 16)}
    inputs |= {"pooled_projections": torch.randn(2, 16), "timestep": torch.tensor([3, 700])}
    return model, lambda: model(**inputs).sample


def sana() -> Made:
    from diffusers import SanaTransformer2DModel

    model = SanaTransformer2DModel(
        **_sizes(),
        in_channels=4,
        out_channels=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=8,
        sample_size=4,
    )
    inputs = {"hidden_states": torch.randn(2, 4, 4, 4), "encoder_hidden_states": torch.randn(2, 3, 8), "timestep": torch.tensor([3, 700])}
    inputs["encoder_attention_mask"] = torch.tensor([[1, 1, 0], [1, 1, 1]])
    return model, lambda: model(**inputs).sample


def qwen_image() -> Made:
    from diffusers import QwenImageTransformer2DModel

    model = QwenImageTransformer2DModel(**_sizes(), in_channels=4, out_channels=1, joint_attention_dim=16, axes_dims_rope=(2, 2, 4))
    inputs = {"hidden_states": torch.randn(1, 4, 4), "encoder_hidden_states": torch.randn(1, 3, 16)}
    inputs |= {"encoder_hidden_states_mask": torch.ones(1, 3, dtype=torch.bool), "timestep": torch.tensor([0.5])}
    return model, lambda: model(**inputs, img_shapes=[[(1, 2, 2)]]).sample


def wan() -> Made:
    from diffusers import WanTransformer3DModel

    model = WanTransformer3DModel(**_sizes(), in_channels=4, out_channels=4, text_dim=16, freq_dim=16, ffn_dim=16, rope_max_seq_len=8)
    inputs = {"hidden_states": torch.randn(1, 4, 2, 4, 4), "encoder_hidden_states": torch.randn(1, 3, 16), "timestep": torch.tensor([500])}
    return model, lambda: model(**inputs).sample


def ltx() -> Made:
    from diffusers import LTXVideoTransformer3DModel

    model = LTXVideoTransformer3DModel(**_sizes(), in_channels=4, out_channels=4, cross_attention_dim=16, caption_channels=8)
    inputs = {"hidden_states": torch.randn(1, 8, 4), "encoder_hidden_states": torch.randn(1, 3, 8), "timestep": torch.tensor([500])}
    inputs["encoder_attention_mask"] = torch.tensor([[1, 1, 0]])
    return model, lambda: model(**inputs, num_frames=2, height=2, width=2).sample


def z_image() -> Made:
    from diffusers import ZImageTransformer2DModel

    model = ZImageTransformer2DModel(
        in_channels=4,
        dim=16,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=8,
        axes_dims=[2, 2, 4],
        axes_lens=[64, 8, 8],
    )
    for token in (model.x_pad_token, model.cap_pad_token):
        nn.init.normal_(token)
    image, text = torch.randn(4, 1, 4, 4), torch.randn(3, 8)
    return model, lambda: torch.stack(model([image], torch.tensor([0.5]), [text]).sample)


def pixart() -> Made:
    from diffusers import PixArtTransformer2DModel

    model = PixArtTransformer2DModel(
        **_sizes(),
        in_channels=4,
        out_channels=8,
        cross_attention_dim=16,
        sample_size=4,
        caption_channels=8,
        use_additional_conditions=False,
    )
    inputs = {"hidden_states": torch.randn(2, 4, 4, 4), "encoder_hidden_states": torch.randn(2, 3, 8), "timestep": torch.tensor([3, 700])}
    return model, lambda: model(**inputs, added_cond_kwargs={"resolution": None, "aspect_ratio": None}).sample


def _words(**others: Any) -> dict[str, Any]:
    return {"vocab_size": 30, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, **others}


def llama() -> Made:
    """With fewer heads of keys and values than of queries."""
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig(**_words(num_key_value_heads=1)))
    return model, lambda: model(torch.arange(6)[None]).logits


def qwen3() -> Made:
    """A batch of two, of which one is padded."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    model = Qwen3ForCausalLM(Qwen3Config(**_words(num_key_value_heads=1, head_dim=8)))
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])
    return model, lambda: model(torch.arange(10).reshape(2, 5), attention_mask=mask).logits


def clip() -> Made:
    from transformers import CLIPTextConfig, CLIPTextModel

    model = CLIPTextModel(CLIPTextConfig(**_words(max_position_embeddings=8, bos_token_id=0, eos_token_id=29, pad_token_id=1)))
    return model, lambda: model(torch.tensor([[0, 4, 5, 29]])).last_hidden_state


def t5() -> Made:
    """Its scores have a bias of their own by distance."""
    from transformers import T5Config, T5EncoderModel

    model = T5EncoderModel(T5Config(vocab_size=30, d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2, dropout_rate=0.0))
    return model, lambda: model(torch.tensor([[3, 4, 5, 1]]), attention_mask=torch.tensor([[1, 1, 1, 0]])).last_hidden_state


DENOISERS = (flux, flux2, sd3, sana, qwen_image, wan, ltx, z_image, pixart)
TEXT = (llama, qwen3, clip, t5)
TARGETS = ("to_q", "to_k", "to_v", "to_qkv_mlp_proj", "q_proj", "k_proj", "v_proj", "q", "k", "v")
"""Endings of the layers that make queries, keys and values."""


def with_lora(make: Callable[[], Made], rank: int = 2) -> Made:
    """A model of ``make``, seeded, frozen, with LoRA on queries, keys and values whose B is not zero."""
    from peft import LoraConfig, inject_adapter_in_model

    torch.manual_seed(0)
    model, run = make()
    model.eval().requires_grad_(False)
    for module in model.modules():  # gates and last layers that begin as zero would hide what is before them
        for parameter in module.parameters(recurse=False):
            if parameter.dim() > 1 and not parameter.any():
                nn.init.normal_(parameter, std=0.1)
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(TARGETS)), model)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.05)
    return model, run
