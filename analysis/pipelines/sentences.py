"""Pairs of sentences in two invented languages, and a tokeniser that splits words into known pieces."""

import re
import zlib

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

_WORD = re.compile(r"\w+|[^\w\s]")
_SYLLABLES = [first + second for first in "bdfgklmnprst" for second in ("a", "e", "i", "o", "u", "an", "er", "is")]
_PIECES, _LONGEST = 8000, 12
START, END, PADDING = 1, 2, 0


def tokens(text):
    """Return the numbers of the longest known pieces, from left to right; a hash of a word says whether it is known."""
    numbers = [START]
    for word in _WORD.findall(text.lower()):
        begin = 0
        while begin < len(word):
            for end in range(min(len(word), begin + _LONGEST), begin, -1):
                number = zlib.crc32(word[begin:end].encode()) % (4 * _PIECES)
                if number < _PIECES or end == begin + 1:
                    break
            numbers.append(3 + number % _PIECES)
            begin = end
    return torch.tensor([*numbers, END])


def padded(samples):
    """Return sources and targets padded to the longest of the batch, and where they are."""
    sources, targets = (pad_sequence(side, batch_first=True) for side in zip(*samples, strict=True))
    return sources, sources != PADDING, targets, targets != PADDING


def write_pairs(path, count, seed):
    """Write `count` lines of two sentences with a tab between: lengths are lognormal, words follow Zipf's law."""
    draws = np.random.default_rng(seed)
    words = np.array(["".join(draws.choice(_SYLLABLES, draws.integers(1, 5))) for _ in range(20_000)])
    lengths = np.clip(draws.lognormal(np.log(20), 0.6, count), 2, 120).astype(int)
    with open(path, "w") as file:
        for length in lengths:
            other = max(2, int(length * draws.uniform(0.8, 1.25)))
            source, target = (words[(draws.zipf(1.2, size) - 1) % len(words)] for size in (length, other))
            file.write(f"{' '.join(source)}.\t{' '.join(target)}.\n")
