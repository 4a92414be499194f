"""Whether another checkpoint may take over: a sample that it has to stand, and posts that it tags in the shadow.

On the sample it has to work, and what it finds there has to have to do with what the one in use finds: better than
chance in which words belong to names, of whatever types, for a retrained one may have other types.

What a candidate says in the shadow is compared and dropped; no event has it.
"""

import asyncio
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from model.tagging import TaggedSpan, Tagging, TaggingInput
from worker.batch_runner import Prepared
from worker.batches import Batcher
from worker.images import FoundFeatures, FoundPixels
from worker.post_tagger import PostTagger

SAMPLE = (
    "so happy about Modern Baseball !",
    "RT @name: Barack Obama lands in Berlin with Angela Merkel https://t.co/x #politics",
    "Apple to open a store in 東京 👩‍👩‍👧 next week, says Tim Cook",
    "lol",
    "word " * 600,
)
"""Captions of all kinds: short, long, emoji, other scripts, an address, and one beyond a window."""

CAPTIONS = (
    "so happy about Modern Baseball !",
    "Barack Obama lands in Berlin with Angela Merkel",
    "Apple to open a store in Tokyo next week , says Tim Cook",
    "Watching Taylor Swift live in New York tonight",
    "Just met Lionel Messi at the airport in Paris , what a nice man",
    "Manchester United beat Chelsea 2 - 1 at Old Trafford",
    "I miss London so much , take me back please",
    "Google buys another startup from Germany",
    "Happy birthday to my best friend Sarah , love you",
    "The new Star Wars movie was better than I thought",
    "President Trump meets Vladimir Putin in Helsinki on Monday",
    "off to Chicago with Mike and Jessica for the weekend",
    "can not believe it is only Tuesday",
    "good morning everyone , have a great day",
    "coffee first , then we can talk",
    "my dog ate the homework again and I am not even kidding",
    "Justin Bieber and Selena Gomez spotted in Los Angeles",
    "Real Madrid sign a striker from Brazil for a record fee",
    "Who else is going to the Harry Potter show in Toronto ?",
    "BBC News : flood warning for Scotland and Wales",
    "this is the best pizza I have had in years",
    "why is it so cold today",
    "Serena Williams wins again at Wimbledon",
    "new shoes came in the mail today so excited",
    "thanks to Microsoft and Nike for the free stuff",
    "Kobe Bryant scored 60 for the Lakers",
    "we need to talk about the weather in Texas",
    "nothing to do and nowhere to go tonight",
)
"""Ordinary posts, about a quarter of whose words belong to names."""

SIDE = 224

SHADOW_BATCH = 8
MAX_SHADOW_WAITING = 64
"""Posts that wait for the candidate; beyond them, those that come aren't compared."""


class Unfit(Exception):
    """Raised where a candidate doesn't stand the sample. Says why."""


def check_on_sample(tagger: PostTagger) -> None:
    """Let `tagger` tag the sample, with a picture where it looks at any. Raises `Unfit`."""
    try:
        tokens = [tagger.tokenize(text) for text in SAMPLE]
        features = None
        if tagger.uses_image:
            # Noise, of which a tower makes more than of an even ground; and the same each time.
            noise = np.random.default_rng(0).integers(256, size=(1, 3, SIDE, SIDE), dtype=np.uint8)
            features = tagger.look(noise)[0]
            if not np.isfinite(features).all():
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


def words_in_names(tagger: PostTagger) -> list[bool]:
    """Of each word of the `CAPTIONS`, whether `tagger` finds a name there."""
    taggings = tagger.tag([TaggingInput(tokens=tagger.tokenize(text)) for text in CAPTIONS])
    return [
        any(span.start < word.end() and word.start() < span.end for span in tagging.spans)
        for text, tagging in zip(CAPTIONS, taggings, strict=True)
        for word in re.finditer(r"\S+", text)
    ]


def sample_agreement(candidate: Sequence[bool], in_use: Sequence[bool]) -> float | None:
    """Cohen's kappa of two answers of `words_in_names`: 1 is the same, 0 is what chance gives.

    Chance, and so 0, is also what a candidate has that finds names everywhere, or none. None where nothing can be
    told, since the one in use finds none itself, or in more than half of the words.
    """
    num_words = len(in_use)
    one, other = sum(candidate) / num_words, sum(in_use) / num_words
    if not 0 < other <= 0.5:
        return None
    by_chance = one * other + (1 - one) * (1 - other)
    same = sum(left == right for left, right in zip(candidate, in_use, strict=True)) / num_words
    return (same - by_chance) / (1 - by_chance)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowPost:
    """A post that was tagged, for the candidate to tag as well."""

    text: str
    prepared: Prepared
    spans: tuple[TaggedSpan, ...]
    same_tower: bool
    """Whether it was prepared for the candidate's tower: the one in use may change meanwhile."""


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


class Shadow:
    """A candidate at work on copies of posts, between batches."""

    def __init__(self, tagger: PostTagger, batcher: Batcher, num_posts: int) -> None:
        self._tagger = tagger
        self._batcher = batcher
        self._num_posts = num_posts
        self._waiting: asyncio.Queue[ShadowPost] = asyncio.Queue(MAX_SHADOW_WAITING)
        self.agreement = Agreement()

    def show(self, post: ShadowPost) -> None:
        """Have a post compared, if there is room and the candidate can see what was seen."""
        if is_comparable(self._tagger, post.prepared, same_tower=post.same_tower) and not self._waiting.full():
            self._waiting.put_nowait(post)

    async def compare(self) -> None:
        """Until enough posts were compared. Raises `Unfit` where the candidate breaks on one."""
        while self.agreement.num_posts < self._num_posts:
            posts = [await self._waiting.get()]
            while len(posts) < SHADOW_BATCH and not self._waiting.empty():
                posts.append(self._waiting.get_nowait())
            act = partial(tag_in_shadow, self._tagger, posts)
            try:
                taggings = await self._batcher.between_batches(act)
            except Exception as error:
                # The border to a checkpoint that nothing depends on yet.
                raise Unfit(f"it fails on posts ({type(error).__name__}: {str(error)[:200]})") from error
            for post, tagging in zip(posts, taggings, strict=True):
                self.agreement.add(post.spans, tagging.spans)


def tag_in_shadow(tagger: PostTagger, posts: Sequence[ShadowPost]) -> list[Tagging]:
    """What the candidate says of `posts`; for the device's thread."""
    inputs = [
        TaggingInput(tokens=tagger.tokenize(post.text), features=_features(tagger, post.prepared, post.same_tower))
        for post in posts
    ]
    return tagger.tag(inputs)


def is_comparable(tagger: PostTagger, prepared: Prepared, *, same_tower: bool) -> bool:
    """Whether the candidate can see what the checkpoint in use has seen: of cached features only its own tower's."""
    return same_tower or not tagger.uses_image or not isinstance(prepared.picture, FoundFeatures)


def _features(tagger: PostTagger, prepared: Prepared, same_tower: bool) -> np.ndarray | None:
    picture = prepared.picture
    if picture is None or not tagger.uses_image:
        return None
    if isinstance(picture, FoundPixels):
        (features,) = tagger.look(picture.pixels[None])
        return np.asarray(features)
    return picture.features if same_tower else None


def _places(spans: Iterable[TaggedSpan]) -> set[tuple[str, int, int]]:
    return {(span.type, span.start, span.end) for span in spans}
