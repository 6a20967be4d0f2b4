"""Prompts and the token embeddings that stand for a text encoder.

A prompt is a sequence of PROMPT_TOKENS tokens, such as `<bos> a drawing of digit 3 <eos>`; the U-Net's cross attention reads their
embeddings, one row per token. The table is trained with the U-Net, except the rows of held-out digits, which keep their first random value:
to the model they are new words. The length 7 makes T = 7 x batch of the K and V projections irregular on purpose.
"""

import torch
from torch import Tensor, nn

from loralith.diffusion.data import DIGITS
from loralith.diffusion.determinism import generator
from loralith.errors import LoralithError

TOKENS = ("<pad>", "<bos>", "<eos>", "a", "drawing", "of", "digit", *(str(digit) for digit in DIGITS))
PROMPT_TOKENS = 7
TOKEN_DIM = 64
DIGIT_POSITION = 5  # of the digit's token within a prompt


def tokenize(prompt: str) -> Tensor:
    """Token ids [PROMPT_TOKENS], int64, of a prompt of words of TOKENS ("" is the prompt without condition).

    Raises LoralithError for an unknown word or a prompt that is too long.
    """
    words = prompt.split()
    for word in words:
        if word not in TOKENS:
            raise LoralithError(f"the prompt's word {word!r} is not in the vocabulary: {' '.join(TOKENS)}")
    if len(words) > PROMPT_TOKENS - 2:
        raise LoralithError(f"a prompt has at most {PROMPT_TOKENS - 2} words, not {len(words)}")
    row = ["<bos>", *words, "<eos>"]
    row += ["<pad>"] * (PROMPT_TOKENS - len(row))
    return torch.tensor([TOKENS.index(word) for word in row])


def digit_prompt(digit: int) -> str:
    return f"a drawing of digit {digit}"


class PromptEncoder(nn.Module):
    """Table of token embeddings, `table.weight` [len(TOKENS), TOKEN_DIM].

    A later method that trains one word changes one row of it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(len(TOKENS), TOKEN_DIM)
        with torch.no_grad():
            self.table.weight.normal_(generator=generator("token embeddings"))

    def forward(self, tokens: Tensor) -> Tensor:
        """Token ids [N, PROMPT_TOKENS] to embeddings [N, PROMPT_TOKENS, TOKEN_DIM]."""
        return self.table(tokens)

    def encode(self, prompt: str, count: int = 1) -> Tensor:
        """Embeddings [count, PROMPT_TOKENS, TOKEN_DIM] of one prompt, repeated."""
        return self(tokenize(prompt)[None].expand(count, -1))
