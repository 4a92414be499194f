"""From tokens to numbers: words by their lower case or the nearest known form, characters as they are."""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from model.tagger import NUM_REGIONS, Batch

UNKNOWN = 1
MAX_CHARACTERS = 40
"""Of a longer token its first and last characters are spelled: hostile words must not cost memory."""

URL, USER = "<url>", "<user>"

# Tweebank-NER writes its links as URL and a number.
_URL = re.compile(r"https?://|www\.|url\d+$")
_DIGIT = re.compile(r"\d")
_LONG = re.compile(r"(.)\1{2,}")
_EDGES = "'\"-_.*’‘“”"


def forms(token: str) -> tuple[str, ...]:
    """The forms under which a word is looked up, from its lower case to the class that it belongs to.

    Links are one class, accounts another, numbers one for each pattern of digits; any other word is
    its own. In between stand a hashtag's word, "soo" for "soooo", and the word without a possessive 's
    or the punctuation at its edges.
    """
    lower = token.lower()
    if _URL.match(lower):
        return lower, URL
    if lower.startswith("@") and len(lower) > 1:
        return lower, USER
    if _DIGIT.search(lower):
        return lower, _DIGIT.sub("0", lower)
    bare = lower[1:] if lower.startswith("#") and len(lower) > 1 else lower
    word = bare.removesuffix("'s").removesuffix("’s") or bare
    return lower, bare, word, _LONG.sub(r"\1\1", word), _LONG.sub(r"\1", word), word.strip(_EDGES) or lower, lower


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
    def of(cls, sentences: Iterable[Sequence[str]], known: Collection[str] = ()) -> "Vocabulary":
        """The characters of `sentences` and their words, and all `known` words, in sorted order.

        A word that is known in one of its forms needs no row of its own; another gets one for its class.
        """
        tokens = {token for sentence in sentences for token in sentence}
        own = {found[-1] for found in map(forms, tokens) if not any(form in known for form in found)}
        return cls(words=tuple(sorted(own.union(known))), characters="".join(sorted(set("".join(tokens)))))

    @property
    def num_words(self) -> int:
        """Words with padding and unknown."""
        return len(self.words) + 2

    @property
    def num_characters(self) -> int:
        """Characters with padding and unknown."""
        return len(self.characters) + 2

    def word(self, token: str) -> int:
        """The number of the first of a word's forms that is here."""
        number = self._words.get(token.lower())
        if number is not None:
            return number
        return next((self._words[form] for form in forms(token) if form in self._words), UNKNOWN)

    def encode(self, sentences: Sequence[Sequence[str]], features: Sequence[Tensor | None], region_width: int) -> Batch:
        """A batch of `sentences` (each of at least one token) and features (R, D), None for no picture."""
        lengths = torch.tensor([len(sentence) for sentence in sentences])
        real = torch.arange(int(lengths.max())) < lengths.unsqueeze(1)  # (B, T)
        encoded = self.encode_words([token for sentence in sentences for token in sentence])
        words, characters, character_lengths = (_padded(numbers, real) for numbers in encoded)
        return Batch(
            words=words,
            characters=characters,
            lengths=lengths,
            character_lengths=character_lengths,
            features=_stack(features, region_width),
            has_image=torch.tensor([feature is not None for feature in features]),
        )

    def encode_words(self, tokens: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """The numbers (N,) of `tokens`, those of their characters (N, C), padded, and how many these are (N,)."""
        spelled = [self._spell(token) for token in tokens]
        lengths = [len(word) for word in spelled]
        longest = max(lengths)
        characters = torch.tensor([word + [0] * (longest - len(word)) for word in spelled])
        return torch.tensor([self.word(token) for token in tokens]), characters, torch.tensor(lengths)

    def _spell(self, token: str) -> list[int]:
        if len(token) > MAX_CHARACTERS:
            token = token[: MAX_CHARACTERS // 2] + token[-MAX_CHARACTERS // 2 :]
        return [self._characters.get(character, UNKNOWN) for character in token]


def _padded(numbers: Tensor, real: Tensor) -> Tensor:
    """`numbers` (N, ...) at the N places where `real` (B, T) is true, 0 elsewhere."""
    padded = numbers.new_zeros(*real.shape, *numbers.shape[1:])
    padded[real] = numbers
    return padded


def _stack(features: Sequence[Tensor | None], region_width: int) -> Tensor:
    if all(feature is None for feature in features):
        # A text-only batch need not carry 49 regions of zeros for each post.
        return torch.zeros(1, 1, 1).expand(len(features), NUM_REGIONS, region_width)
    blank = torch.zeros(NUM_REGIONS, region_width)
    return torch.stack([blank if feature is None else feature.float() for feature in features])
