"""From tokens to numbers: words by their lower case, characters as they are."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from model.tagger import NUM_REGIONS, Batch

UNKNOWN = 1
MAX_CHARACTERS = 40
"""Of a longer token its first and last characters are spelled: hostile words must not cost memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """Words and characters by number; 0 is padding, 1 is unknown."""

    words: tuple[str, ...]
    characters: str
    _words: dict[str, int] = field(init=False, repr=False, compare=False)
    _characters: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_words", {word: number for number, word in enumerate(self.words, 2)})
        spelled = {character: number for number, character in enumerate(self.characters, 2)}
        object.__setattr__(self, "_characters", spelled)

    @classmethod
    def of(cls, sentences: Iterable[Sequence[str]]) -> "Vocabulary":
        """All words and characters of `sentences`, in sorted order."""
        tokens = {token for sentence in sentences for token in sentence}
        return cls(
            words=tuple(sorted({token.lower() for token in tokens})),
            characters="".join(sorted(set("".join(tokens)))),
        )

    @property
    def num_words(self) -> int:
        """Words with padding and unknown."""
        return len(self.words) + 2

    @property
    def num_characters(self) -> int:
        """Characters with padding and unknown."""
        return len(self.characters) + 2

    def word(self, token: str) -> int:
        """The number of a word."""
        return self._words.get(token.lower(), UNKNOWN)

    def encode(self, sentences: Sequence[Sequence[str]], features: Sequence[Tensor | None], region_width: int) -> Batch:
        """A batch of `sentences` (each of at least one token) and features (R, D), None for no picture."""
        lengths = torch.tensor([len(sentence) for sentence in sentences])
        spelled = [[self._spell(token) for token in sentence] for sentence in sentences]
        longest = max(len(word) for sentence in spelled for word in sentence)
        words = torch.zeros(len(sentences), int(lengths.max()), dtype=torch.int64)
        characters = torch.zeros(*words.shape, longest, dtype=torch.int64)
        character_lengths = torch.zeros_like(words)
        for row, sentence in enumerate(sentences):
            words[row, : len(sentence)] = torch.tensor([self.word(token) for token in sentence])
            padded = [word + [0] * (longest - len(word)) for word in spelled[row]]
            characters[row, : len(sentence)] = torch.tensor(padded)
            character_lengths[row, : len(sentence)] = torch.tensor([len(word) for word in spelled[row]])
        return Batch(
            words=words,
            characters=characters,
            lengths=lengths,
            character_lengths=character_lengths,
            features=_stack(features, region_width),
            has_image=torch.tensor([feature is not None for feature in features]),
        )

    def _spell(self, token: str) -> list[int]:
        if len(token) > MAX_CHARACTERS:
            token = token[: MAX_CHARACTERS // 2] + token[-MAX_CHARACTERS // 2 :]
        return [self._characters.get(character, UNKNOWN) for character in token]


def _stack(features: Sequence[Tensor | None], region_width: int) -> Tensor:
    if all(feature is None for feature in features):
        # A text-only batch need not carry 49 regions of zeros for each post.
        return torch.zeros(1, 1, 1).expand(len(features), NUM_REGIONS, region_width)
    blank = torch.zeros(NUM_REGIONS, region_width)
    return torch.stack([blank if feature is None else feature.float() for feature in features])
