"""What a tagger is given and what it gives back, for whoever has to do with neither torch nor a device.

R regions (49), D the tower's width.
"""

from dataclasses import dataclass

import numpy as np

from model.tokenizer import Token


@dataclass(frozen=True, slots=True, kw_only=True)
class TaggingInput:
    """A post for the tagger; `features` (R, D) in fp16, None where there is no picture."""

    tokens: tuple[Token, ...]
    features: np.ndarray | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaggedSpan:
    """A name at text[start:end], in code points; `confidence` is the probability of this very span."""

    type: str
    start: int
    end: int
    confidence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tagging:
    """The names of a post, the weights of the picture's regions (49), row by row, and the gate of each word.

    The gate is the mean of β_v (section 2.4), 0 to 1: how much of the picture goes into the word. Attention and gate
    are None where no picture was looked at, or where the variant has no such part.
    """

    spans: tuple[TaggedSpan, ...] = ()
    attention: tuple[float, ...] | None = None
    gate: tuple[float, ...] | None = None
