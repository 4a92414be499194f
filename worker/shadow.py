"""Whether another checkpoint may take over: a sample that it has to stand, and posts that it tags in the shadow.

What a candidate says in the shadow is compared and dropped; no event has it.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from model.inference import TaggedSpan, Tagging, TaggingInput
from worker.batch_runner import PostTagger, Prepared
from worker.images import FoundFeatures, FoundPixels

SAMPLE = (
    "so happy about Modern Baseball !",
    "RT @name: Barack Obama lands in Berlin with Angela Merkel https://t.co/x #politics",
    "Apple to open a store in 東京 👩‍👩‍👧 next week, says Tim Cook",
    "lol",
    "word " * 600,
)
"""Captions of all kinds: short, long, emoji, other scripts, an address, and one beyond a window."""

SIDE = 224


class Unfit(Exception):
    """Raised where a candidate doesn't stand the sample. Says why."""


def check_on_sample(tagger: PostTagger) -> None:
    """Let `tagger` tag the sample, with a picture where it looks at any. Raises `Unfit`."""
    try:
        tokens = [tagger.tokenize(text) for text in SAMPLE]
        features = None
        if tagger.uses_image:
            # Noise, of which a tower makes more than of an even ground; and the same each time.
            noise = torch.randint(0, 256, (1, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(0))
            features = tagger.look(noise.to(torch.uint8))[0]
            if not bool(torch.isfinite(features).all()):
                raise Unfit("its tower sees no numbers in a picture")
        inputs = [TaggingInput(tokens=each, features=features if n == 0 else None) for n, each in enumerate(tokens)]
        taggings = tagger.tag(inputs)
    except Unfit:
        raise
    except Exception as error:
        # The border to a stranger's file: whatever it breaks, it breaks here and not on posts.
        raise Unfit(f"it fails on the sample ({type(error).__name__}: {str(error)[:200]})") from error
    if len(taggings) != len(SAMPLE):
        raise Unfit(f"it gives {len(taggings)} answers to {len(SAMPLE)} posts")
    for text, tagging in zip(SAMPLE, taggings, strict=True):
        for span in tagging.spans:
            if not (0 <= span.start < span.end <= len(text) and math.isfinite(span.confidence)):
                raise Unfit("it finds names outside of the text, or without a confidence")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowPost:
    """A post that was tagged, for the candidate to tag as well."""

    text: str
    prepared: Prepared
    spans: tuple[TaggedSpan, ...]


class Agreement:
    """How far two checkpoints find the same names: F1 of the one's spans against the other's, over all posts."""

    def __init__(self) -> None:
        self.num_posts = 0
        self._num_both = 0
        self._num_either = 0

    @property
    def ratio(self) -> float:
        """2·|both| / (|one| + |other|); 1 where neither finds any."""
        return 2 * self._num_both / self._num_either if self._num_either else 1.0

    def add(self, one: Iterable[TaggedSpan], other: Iterable[TaggedSpan]) -> None:
        """Count one post."""
        left, right = _places(one), _places(other)
        self.num_posts += 1
        self._num_both += len(left & right)
        self._num_either += len(left) + len(right)


def tag_in_shadow(tagger: PostTagger, posts: Sequence[ShadowPost], *, same_tower: bool) -> list[Tagging]:
    """What the candidate says of `posts`; for the device's thread."""
    inputs = [
        TaggingInput(tokens=tagger.tokenize(post.text), features=_features(tagger, post.prepared, same_tower))
        for post in posts
    ]
    return tagger.tag(inputs)


def is_comparable(tagger: PostTagger, prepared: Prepared, *, same_tower: bool) -> bool:
    """Whether the candidate can see what the checkpoint in use has seen: of cached features only its own tower's."""
    return same_tower or not tagger.uses_image or not isinstance(prepared.picture, FoundFeatures)


def _features(tagger: PostTagger, prepared: Prepared, same_tower: bool) -> torch.Tensor | None:
    picture = prepared.picture
    if picture is None or not tagger.uses_image:
        return None
    if isinstance(picture, FoundPixels):
        return tagger.look(torch.from_numpy(picture.pixels)[None])[0]
    return torch.from_numpy(picture.features) if same_tower else None


def _places(spans: Iterable[TaggedSpan]) -> set[tuple[str, int, int]]:
    return {(span.type, span.start, span.end) for span in spans}
