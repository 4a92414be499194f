"""The inputs of words that were seen lately, so that each is looked up and spelled once.

B posts, T tokens, N words, E their size: embedding and spelling side by side. Most words of a stream have just been
there; to encode and spell them anew took a quarter of a batch's time.
"""

import threading
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

NUM_KEPT = 16_384
LONGEST_KEPT = 64
"""Characters of a word that is kept: a post without a space may be one word of a megabyte."""

MOST_AT_ONCE = 2048
"""Words that are spelled at once: long ones take 100 kB each while they are."""

Embed = Callable[[Sequence[str]], Tensor]
"""Gives the inputs (N, E) of words."""


class WordCache:
    """The inputs of words as `embed` gives them; may be asked from several threads."""

    def __init__(self, embed: Embed, num_kept: int = NUM_KEPT) -> None:
        self._embed = embed
        self._num_kept = num_kept
        self._places: dict[str, int] = {}
        self._num_used = 1  # place 0 is the padding's
        self._table: Tensor | None = None
        self._lock = threading.Lock()

    def inputs(self, sentences: Sequence[Sequence[str]]) -> tuple[Tensor, Tensor]:
        """Inputs (B, T, E) of `sentences`, each of at least one word, zero where they are padded; and lengths (B,)."""
        with self._lock:
            words = dict.fromkeys(word for sentence in sentences for word in sentence)
            if new := [word for word in words if word not in self._places]:
                self._learn(new, list(words))
            assert self._table is not None
            lengths = torch.tensor([len(sentence) for sentence in sentences])
            longest = int(lengths.max())
            places = [
                [*(self._places[word] for word in sentence), *[0] * (longest - len(sentence))] for sentence in sentences
            ]
            for word in new:
                if len(word) > LONGEST_KEPT:
                    del self._places[word]
            return self._table[torch.tensor(places, device=self._table.device)], lengths

    def _learn(self, new: list[str], words: list[str]) -> None:
        if self._num_used + len(new) > self._num_kept:
            # All of them go: words that are common are back at once, and no order has to be kept.
            self._places.clear()
            self._num_used = 1
            new = words
        for start in range(0, len(new), MOST_AT_ONCE):
            part = new[start : start + MOST_AT_ONCE]
            embedded = self._embed(part)
            self._reserve(1 + max(self._num_kept, len(words)), like=embedded)
            assert self._table is not None
            self._table[self._num_used : self._num_used + len(part)] = embedded
            self._places |= {word: place for place, word in enumerate(part, self._num_used)}
            self._num_used += len(part)

    def _reserve(self, num_rows: int, like: Tensor) -> None:
        """Make room for as many words as a batch has, be they more than are kept."""
        before = self._table
        if before is None:
            self._table = like.new_zeros(num_rows, like.shape[1])
        elif len(before) < num_rows:
            self._table = torch.cat([before, before.new_zeros(num_rows - len(before), before.shape[1])])
