"""The inputs of words: those of the network, whichever were kept before."""

from collections.abc import Sequence

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.word_cache import LONGEST_KEPT, MOST_AT_ONCE, WordCache

WORDS = st.sampled_from([*"abcdefgh", "x" * LONGEST_KEPT, "y" * (LONGEST_KEPT + 1), "z" * 1000])


class Embedder:
    """Counts what it is asked; a word's inputs are its length and its first character."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.most_at_once = 0

    def __call__(self, words: Sequence[str]) -> Tensor:
        self.asked += words
        self.most_at_once = max(self.most_at_once, len(words))
        return torch.tensor([[float(len(word)), float(ord(word[0]))] for word in words])


@settings(deadline=None)
@given(batches=st.lists(st.lists(st.lists(WORDS, min_size=1, max_size=6), min_size=1, max_size=4), max_size=6))
def test_inputs_are_right_however_few_are_kept(batches: list[list[list[str]]]) -> None:
    """A batch may have more words than are kept; padding is zero."""
    cache = WordCache(Embedder(), num_kept=5)
    for sentences in batches:
        found, lengths = cache.inputs(sentences)
        assert lengths.tolist() == list(map(len, sentences))
        assert found.shape == (len(sentences), max(map(len, sentences)), 2)
        for row, sentence in zip(found, sentences, strict=True):
            assert torch.equal(row[: len(sentence)], Embedder()(sentence))
            assert not row[len(sentence) :].any()


def test_a_word_is_embedded_once_but_not_kept_when_it_is_long() -> None:
    """Long ones are strangers' mostly, and 16,384 of them could take any memory."""
    cache = WordCache(embedder := Embedder())
    long = "w" * (LONGEST_KEPT + 1)
    for _ in range(3):
        cache.inputs([["a", "b", long, long], ["a", "c"]])
    assert sorted(embedder.asked) == ["a", "b", "c", long, long, long]
    assert set(cache._places) == {"a", "b", "c"}


def test_many_new_words_are_embedded_some_at_a_time() -> None:
    """A batch of long posts has tens of thousands, each of which takes memory while it is spelled."""
    cache = WordCache(embedder := Embedder())
    found, _ = cache.inputs([[f"w{number}" for number in range(2 * MOST_AT_ONCE + 1)]])
    assert found.shape == (1, 2 * MOST_AT_ONCE + 1, 2)
    assert embedder.most_at_once == MOST_AT_ONCE
