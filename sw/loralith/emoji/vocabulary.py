"""The tokenizer's vocabulary: byte pairs merged on the captions of training. Each common word is one token; any text has some."""

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

from transformers import CLIPTokenizer

from loralith.emoji.catalogue import Concept
from loralith.emoji.models import END, START
from loralith.emoji.scenes import BACKGROUNDS, caption, draw_scene
from loralith.emoji.settings import VOCABULARY_AT_MOST
from loralith.errors import LoralithError

WORD_END = "</w>"
SAMPLE = 4000
"""Captions whose words are counted, beside each concept's names."""


def byte_letters() -> list[str]:
    """The 256 letters that byte-level BPE writes bytes as, in the order of the bytes."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    letters = {byte: chr(byte) for byte in plain} | {byte: chr(256 + index) for index, byte in enumerate(others)}
    return [letters[byte] for byte in range(256)]


def merge_pairs(words: Counter[str], merges: int) -> list[tuple[str, str]]:
    """The most frequent pairs of neighbours, merged one after another; equal counts in the pairs' own order. Words in ASCII."""
    pieces = {word: [*word[:-1], word[-1] + WORD_END] for word in sorted(words)}
    found: list[tuple[str, str]] = []
    while len(found) < merges:
        counts: Counter[tuple[str, str]] = Counter()
        for word, parts in pieces.items():
            for pair in pairwise(parts):
                counts[pair] += words[word]
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        found.append(best)
        for word, parts in pieces.items():
            if best[0] in parts:
                pieces[word] = _merged(parts, best)
    return found


def _merged(parts: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    index = 0
    while index < len(parts):
        if tuple(parts[index : index + 2]) == pair:
            out.append(pair[0] + pair[1])
            index += 2
        else:
            out.append(parts[index])
            index += 1
    return out


def training_words(concepts: Sequence[Concept], seed: int) -> Counter[str]:
    """How often words occur in captions; each name counts as one caption more."""
    draw = random.Random(f"emoji vocabulary/{seed}")
    captions: Iterable[str] = (caption(draw_scene(concepts, "emoji vocabulary", seed, number), concepts, draw) for number in range(SAMPLE))
    names = (name for concept in concepts for name in (*concept.names, concept.kind))
    words = Counter(word for text in (*captions, *names, *BACKGROUNDS) for word in text.split())
    return Counter({word: count for word, count in words.items() if word.isalnum()})


def new_tokenizer(words: Counter[str], *, vocabulary: int, length: int) -> CLIPTokenizer:
    """A stock CLIP tokenizer of at most ``vocabulary`` tokens for prompts of ``length`` tokens, start and end included.

    Raises LoralithError for more tokens than the pipeline may have, and for fewer than all bytes need.
    """
    letters = byte_letters()
    least = 2 * len(letters) + 2
    if not least <= vocabulary <= VOCABULARY_AT_MOST:
        raise LoralithError(f"vocabulary must be in {least}..{VOCABULARY_AT_MOST}, not {vocabulary}")
    merges = merge_pairs(words, vocabulary - least)
    tokens = [*letters, *(letter + WORD_END for letter in letters), *(one + other for one, other in merges), START, END]
    vocab = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=length)  # type: ignore[arg-type]
