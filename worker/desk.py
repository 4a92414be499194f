"""From a post to its event: prepared, tagged in a batch with others, and written down.

A post is tagged by the checkpoint that is in use when it comes, whichever is when it leaves.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from consumers.errors import BadMessage, Reason
from consumers.events import REGIONS_PER_SIDE, CheckpointName, Entity, EntityEvent, ImageReport, Scissors
from consumers.image_status import ImageStatus
from consumers.posts import ImageChoice, Post
from consumers.source import Message
from consumers.wire import PositionReport
from model.tagging import TaggedSpan
from model.tokenizer import Token
from worker.batch_runner import Prepared, Tagged
from worker.batches import Batcher
from worker.checkpoints import Checkpoints, InUse
from worker.errors import ImageError, TaggerBroken, TaggingFailed
from worker.images import FoundFeatures, FoundPixels
from worker.metrics import Metrics
from worker.post_tagger import PostTagger
from worker.tracing import NO_TRACE, PostTrace

LONG_TEXT = 10_000
"""Code points from which on a text is split into tokens beside asyncio."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeskConfig:
    """What of a post is read, and what of it stands in its event."""

    max_post_tokens: int = 5000
    image_choice: ImageChoice = "first"
    include_text: bool = True
    include_attention: bool = False


class Work(NamedTuple):
    """A post after its batch; `tagged` is None where it had no token."""

    post: Post
    in_use: InUse
    prepared: Prepared
    report: ImageReport
    tagged: Tagged | None


class Desk:
    """Works on one post at a time for each caller, and on many for all of them."""

    def __init__(self, checkpoints: Checkpoints, batcher: Batcher, metrics: Metrics, config: DeskConfig) -> None:
        self._checkpoints = checkpoints
        self._batcher = batcher
        self._metrics = metrics
        self._config = config

    async def tag(self, post: Post, *, noted_as: str | None, trace: PostTrace = NO_TRACE) -> Work:
        """Prepare and tag; by the checkpoint in use, and where that is new and breaks on the post, by the one before.

        `noted_as` is the id under which a delete finds the picture. Raises `BadMessage`, `TaggingFailed` where this
        post breaks the tagger, and `TaggerBroken` where any does.
        """
        in_use = self._checkpoints.current
        try:
            return await self._tag_with(in_use, post, noted_as, trace)
        except (TaggingFailed, TaggerBroken) as error:
            other = self._checkpoints.instead_of(in_use)
            if other is None:
                raise
            work = await self._tag_with(other, post, noted_as, trace)
            self._checkpoints.blame(in_use, error)
            return work

    def remember(self, work: Work) -> None:
        """Keep what the tower has seen for the posts that show the same."""
        if work.tagged and work.prepared.picture and work.tagged.new_features is not None:
            work.in_use.images.remember(work.prepared.picture.digest, work.tagged.new_features)

    def event(self, work: Work, message: Message) -> EntityEvent:
        """The event of a post that came as `message`."""
        post, config, tagger, report = work.post, self._config, work.in_use.tagger, work.report
        tagging = work.tagged.tagging if work.tagged else None
        if tagging and config.include_attention and tagging.attention and report.digest:
            report = report.model_copy(update={"attention": _rows(tagging.attention)})
        return EntityEvent(
            id=post.id,
            source=post.source,
            lang=post.lang,
            created_at=post.created_at,
            tagged_at=datetime.now(UTC),
            text=post.shown.text if config.include_text else None,
            raw_text=post.text if config.include_text and post.text != post.shown.text else None,
            entities=_entities(post, tagging.spans if tagging else ()),
            image=report,
            checkpoint=CheckpointName(id=tagger.checkpoint_id, variant=tagger.variant),
            position=PositionReport.of(message.position),
        )

    async def _tag_with(self, in_use: InUse, post: Post, noted_as: str | None, trace: PostTrace) -> Work:
        with self._metrics.stage("prepare"):
            prepared, report = await self._prepare(in_use, post, noted_as, trace)
        if not prepared.tokens:
            return Work(post, in_use, prepared, report, None)
        with trace.span("tag"):
            tagged = await self._batcher.tag(prepared, in_use.runner)
        self._checkpoints.note(in_use, post.shown.text, prepared, tagged.tagging.spans)
        return Work(post, in_use, prepared, report, tagged)

    async def _prepare(
        self, in_use: InUse, post: Post, noted_as: str | None, trace: PostTrace
    ) -> tuple[Prepared, ImageReport]:
        tokens = await self._tokenize(in_use.tagger, post.shown.text)
        image = post.choose_image(self._config.image_choice)
        url = image.url if image else None
        if image is None or not in_use.tagger.uses_image or not tokens:
            return Prepared(tokens=tokens), ImageReport(status=ImageStatus.NONE, url=url)
        picture: FoundFeatures | FoundPixels
        try:
            with self._metrics.stage("image"), trace.span("fetch"):
                picture = await in_use.images.look_up(image, noted_as)
        except ImageError as error:
            return Prepared(tokens=tokens), ImageReport(status=error.status, url=url)
        report = ImageReport(status=ImageStatus.USED, url=url, digest=picture.digest)
        return Prepared(tokens=tokens, picture=picture), report

    async def _tokenize(self, tagger: PostTagger, text: str) -> tuple[Token, ...]:
        tokenize = tagger.tokenize
        # A text of a megabyte takes seconds, which asyncio can't spare.
        tokens = tokenize(text) if len(text) <= LONG_TEXT else await asyncio.to_thread(tokenize, text)
        if len(tokens) > self._config.max_post_tokens:
            raise BadMessage(
                Reason.TOO_LARGE,
                f"the post has {len(tokens)} tokens; the limit is {self._config.max_post_tokens} (max_post_tokens)",
            )
        return tokens


def _entities(post: Post, spans: Sequence[TaggedSpan]) -> tuple[Entity, ...]:
    shown = post.shown
    scissors = Scissors(shown.text)
    raw = Scissors(post.text) if post.text != shown.text else None
    return tuple(
        scissors.cut(
            type=span.type,
            start=span.start,
            end=span.end,
            confidence=span.confidence,
            raw=raw.raw(shown.delivered(span.start), shown.delivered(span.end)) if raw else None,
        )
        for span in spans
    )


def _rows(attention: tuple[float, ...]) -> tuple[tuple[float, ...], ...]:
    """The weights of the regions (49) as rows of a square, top left first."""
    side = REGIONS_PER_SIDE
    return tuple(attention[row * side : (row + 1) * side] for row in range(side))
