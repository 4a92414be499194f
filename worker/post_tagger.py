"""What the worker asks of a tagger, be it in this process (`model.inference.Tagger`) or in one of its own."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from model.tagging import Tagging, TaggingInput
from model.tokenizer import Token

BeginLook = Callable[[Sequence[np.ndarray]], Callable[[], np.ndarray]]
"""Begins to look at pictures (3, 224, 224); what it gives back waits for their features (N, 49, D)."""

BeginTag = Callable[[Sequence[TaggingInput]], Callable[[], list[Tagging]] | None]
"""Begins to tag posts; what it gives back waits for their taggings. None where it can't begin now. Never waits."""


class PostTagger(Protocol):
    """Tags posts."""

    @property
    def checkpoint_id(self) -> str:
        """Names the checkpoint in events."""

    @property
    def variant(self) -> str:
        """One of the paper's four variants."""

    @property
    def uses_image(self) -> bool:
        """Whether a picture makes a difference to the variant."""

    def tokenize(self, text: str) -> tuple[Token, ...]:
        """Tokens of a caption, by the checkpoint's own scheme."""

    def look(self, pixels: np.ndarray) -> np.ndarray:
        """Features (N, 49, D) in fp16 of pixels (N, 3, 224, 224) in uint8. Raises `OutOfMemory`."""

    def tag(self, inputs: Sequence[TaggingInput]) -> list[Tagging]:
        """Tag posts; as many taggings as inputs, in their order. Raises `OutOfMemory`."""


class LoadedTagger(PostTagger, Protocol):
    """A tagger with all that is told of it."""

    @property
    def tower_digest(self) -> str:
        """Names its tower's features in a cache."""

    @property
    def feature_shape(self) -> tuple[int, int]:
        """Regions and width of a picture's features."""

    @property
    def begin_look(self) -> BeginLook | None:
        """`look` in two steps, where anything is gained by it."""

    @property
    def begin_tag(self) -> BeginTag | None:
        """`tag` in two steps, where anything is gained by it. May be called on any thread."""
