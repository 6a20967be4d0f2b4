"""The file of a trained token: safetensors with one tensor `token` [D], and what it stands for in its header."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from loralith.errors import LoralithError
from loralith.formats.checkpoint import write_tensors

__all__ = ["FORMAT", "Token", "TokenError", "load_token", "save_token"]

FORMAT = "loralith-token-1"


class TokenError(LoralithError):
    """A token's file that is missing, damaged or of another width."""


@dataclass(frozen=True)
class Token:
    """``word`` of the vocabulary whose embedding ``value`` float32 [D] replaces."""

    word: str
    value: Tensor


def save_token(token: Token, path: Path) -> None:
    """Writes the file, whole or not at all."""
    header = {"format": FORMAT, "word": token.word, "width": token.value.numel()}
    write_tensors({"token": token.value}, path, {"loralith": json.dumps(header, sort_keys=True)})


def load_token(path: Path, width: int) -> Token:
    """Reads a token for prompts of ``width``. Raises TokenError."""
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["loralith"])
            value = file.get_tensor("token")
        form, word = header["format"], str(header["word"])
    except FileNotFoundError:
        raise TokenError(f"there is no token at {path}") from None
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise TokenError(f"{path} is damaged or not a token's file ({error})") from error
    if form != FORMAT:
        raise TokenError(f"{path} has the format {form!r}, this version reads {FORMAT!r}")
    if value.shape != (width,):
        raise TokenError(f"{path} holds a token of shape {tuple(value.shape)}, this model's prompts have the width {width}")
    if not value.isfinite().all():
        raise TokenError(f"{path} holds values that are not finite")
    return Token(word, value.float())
