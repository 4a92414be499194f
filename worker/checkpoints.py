"""Which checkpoint is in use, and how another takes its place while posts go on.

named     a watched file was replaced, or a key of Redis names another (worker/checkpoint_place.py)
loaded    beside the one in use, on a thread of its own
checked   there, on a sample (worker/shadow.py): on the device's thread it would hold up a batch for its length
shadowed  where that is asked for: it tags a share of the posts too, until enough were compared
swapped   posts that come from now on are prepared for it; those under way end with the one before
tried     the one before is kept for a while. Posts that the new one breaks on are tagged by the one
          before, and after a few of them, or one that breaks it altogether, that one is in use again
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from model.inference import TaggedSpan
from worker.batch_runner import BatchRunner, PostTagger, Prepared
from worker.batches import Batcher
from worker.checkpoint_place import CheckpointPlace, Named, check_is_file
from worker.errors import TaggerBroken, WorkerError
from worker.images import ImageSource
from worker.metrics import Metrics
from worker.own_thread import OwnThread
from worker.shadow import Agreement, ShadowPost, Unfit, check_on_sample, is_comparable, tag_in_shadow

log = logging.getLogger("nametag.checkpoints")

MOST_FAILURES = 3
"""So many posts that only the new checkpoint breaks on put the one before in use again."""

SHADOW_BATCH = 8
MAX_SHADOW_WAITING = 64
"""Posts that wait for the candidate; beyond them, those that come aren't compared."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InUse:
    """A checkpoint that posts can be tagged with: the tagger, its batches, and pictures as its tower sees them."""

    tagger: PostTagger
    runner: BatchRunner
    images: ImageSource
    tower_digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapConfig:
    """`trial_seconds` is how long the checkpoint before is kept, to fall back on.

    With a `shadow_share` above 0 a candidate tags that share of the posts too, and takes over once `shadow_posts` were
    compared and at least `least_agreement` of the names are the same.
    """

    poll_seconds: float = 5.0
    trial_seconds: float = 300.0
    shadow_share: float = 0.0
    shadow_posts: int = 500
    least_agreement: float = 0.5

    def __post_init__(self) -> None:
        for name in ("poll_seconds", "trial_seconds", "shadow_posts"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        for name in ("shadow_share", "least_agreement"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1, not {getattr(self, name)}")


class Checkpoints:
    """The checkpoint in use, and its changes. For asyncio's loop."""

    def __init__(
        self,
        first: InUse,
        batcher: Batcher,
        metrics: Metrics,
        *,
        place: CheckpointPlace | None = None,
        build: Callable[[Path], InUse] | None = None,
        config: SwapConfig | None = None,
    ) -> None:
        self._batcher = batcher
        self._metrics = metrics
        self._place = place
        self._build = build
        self._config = config or SwapConfig()
        self._loader = OwnThread("checkpoint-loader")
        self._previous: InUse | None = None
        """The last that stood its trial, while the one in use is on its own."""
        self._trial_until = 0.0
        self._num_failures = 0
        self._known: Named | None = None
        self._shadow: _Shadow | None = None
        self.current = first
        """What posts that come now are prepared for."""
        self._tell_current()

    async def run(self) -> None:
        """Look for another checkpoint now and then, until cancelled."""
        while self._place is not None:
            await self.look()
            await asyncio.sleep(self._config.poll_seconds)

    async def look(self, *, at_start: bool = False) -> None:
        """Take over what is newly named, if it is fit.

        At the start of a worker there are no posts to shadow: where that is asked for, it comes later, and a restart
        brings in nothing that was refused.
        """
        if at_start and self._config.shadow_share > 0:
            return
        self._end_trial_in_time()
        named = await self._place.look() if self._place is not None else None
        if named is None or named == self._known:
            return
        self._known = named
        log.info("checkpoint_found", extra={"file": named.path.name})
        try:
            candidate = await self._fit(named)
        except Exception as error:
            # The border to a stranger's file: whatever it breaks, the one in use goes on.
            self._metrics.checkpoint_changes.labels("refused").inc()
            kept = self.current.tagger.checkpoint_id
            log.error("checkpoint_refused", extra={"file": named.path.name, "reason": str(error)[:500], "kept": kept})
            return
        if candidate is not None:
            self._swap(candidate)

    def note(self, in_use: InUse, text: str, prepared: Prepared, spans: tuple[TaggedSpan, ...]) -> None:
        """A post was tagged: a candidate may be shown it, too."""
        if self._shadow is not None and in_use is self.current and random.random() < self._config.shadow_share:
            self._shadow.show(ShadowPost(text=text, prepared=prepared, spans=spans))

    def instead_of(self, failed: InUse) -> InUse | None:
        """Who may tag a post that `failed` broke on; None where nobody else is there."""
        return self._previous if failed is self.current else self.current

    def blame(self, failed: InUse, error: WorkerError) -> None:
        """A post that `failed` broke on was tagged by `instead_of` it."""
        log.warning("checkpoint_failed_post", extra={"id": failed.tagger.checkpoint_id, "reason": str(error)[:200]})
        if failed is not self.current or self._previous is None:
            return
        self._num_failures += 1
        if isinstance(error, TaggerBroken) or self._num_failures >= MOST_FAILURES:
            self._roll_back(str(error))

    async def close(self) -> None:
        """Let go of where checkpoints are named."""
        self._loader.end()
        if self._place is not None:
            await self._place.close()

    async def _fit(self, named: Named) -> InUse | None:
        """The candidate in the file; None where it is the one in use, or another was named meanwhile."""
        assert self._build is not None
        # On a thread that nobody waits for at the end: a file may be on a disk that doesn't answer.
        await self._loader.call(partial(check_is_file, named.path))
        candidate = await self._loader.call(partial(self._build, named.path))
        if candidate.tagger.checkpoint_id == self.current.tagger.checkpoint_id:
            log.info("checkpoint_same", extra={"id": candidate.tagger.checkpoint_id})
            return None
        await self._loader.call(partial(check_on_sample, candidate.tagger))
        if self._config.shadow_share > 0 and not await self._shadowed(candidate):
            return None
        return candidate

    async def _shadowed(self, candidate: InUse) -> bool:
        """Whether enough names are the same; False where another file is named before that is known. Raises `Unfit`."""
        config = self._config
        same_tower = candidate.tower_digest == self.current.tower_digest
        self._shadow = _Shadow(candidate, self._batcher, config.shadow_posts, same_tower=same_tower)
        extra = {"id": candidate.tagger.checkpoint_id, "num_posts": config.shadow_posts}
        log.info("checkpoint_shadowing", extra=extra)
        try:
            comparing = asyncio.create_task(self._shadow.compare())
            try:
                while not (await asyncio.wait({comparing}, timeout=config.poll_seconds))[0]:
                    self._end_trial_in_time()
                    self._metrics.agreement.set(self._shadow.agreement.ratio)
                    assert self._place is not None
                    if (named := await self._place.look()) is not None and named != self._known:
                        log.info("checkpoint_overtaken", extra=extra)
                        return False
                comparing.result()
            finally:
                comparing.cancel()
            ratio = self._shadow.agreement.ratio
        finally:
            self._shadow = None
        self._metrics.agreement.set(ratio)
        if ratio < config.least_agreement:
            raise Unfit(f"of {config.shadow_posts} posts {ratio:.0%} of the names are the same as before; at least "
                        f"{config.least_agreement:.0%} must be (checkpoints.least_agreement)")  # fmt: skip
        return True

    def _swap(self, candidate: InUse) -> None:
        before, self.current = self.current, candidate
        # While one is on trial, the one that stood its own is kept: two bad ones may follow each other.
        self._previous = self._previous or before
        self._num_failures = 0
        self._trial_until = time.monotonic() + self._config.trial_seconds
        self._metrics.checkpoint_changes.labels("swapped").inc()
        self._tell_current(before)
        ids = {"before": before.tagger.checkpoint_id, "now": candidate.tagger.checkpoint_id}
        log.info("checkpoint_swapped", extra=ids)

    def _roll_back(self, reason: str) -> None:
        assert self._previous is not None
        rejected, self.current, self._previous = self.current, self._previous, None
        self._metrics.checkpoint_changes.labels("rolled_back").inc()
        self._tell_current(rejected)
        ids = {"given_up": rejected.tagger.checkpoint_id, "now": self.current.tagger.checkpoint_id}
        log.error("checkpoint_rolled_back", extra={**ids, "reason": reason[:500], "next": "name another checkpoint"})

    def _end_trial_in_time(self) -> None:
        if self._previous is not None and time.monotonic() >= self._trial_until:
            self._previous = None
            log.info("checkpoint_settled", extra={"id": self.current.tagger.checkpoint_id})

    def _tell_current(self, before: InUse | None = None) -> None:
        if before is not None:
            self._metrics.checkpoint.remove(before.tagger.checkpoint_id, before.tagger.variant)
        self._metrics.checkpoint.labels(self.current.tagger.checkpoint_id, self.current.tagger.variant).set(1)


class _Shadow:
    """A candidate at work on copies of posts, between batches."""

    def __init__(self, candidate: InUse, batcher: Batcher, num_posts: int, *, same_tower: bool) -> None:
        self._tagger = candidate.tagger
        self._batcher = batcher
        self._num_posts = num_posts
        self._same_tower = same_tower
        self._waiting: asyncio.Queue[ShadowPost] = asyncio.Queue(MAX_SHADOW_WAITING)
        self.agreement = Agreement()

    def show(self, post: ShadowPost) -> None:
        """Have a post compared, if there is room and the candidate can see what was seen."""
        if is_comparable(self._tagger, post.prepared, same_tower=self._same_tower) and not self._waiting.full():
            self._waiting.put_nowait(post)

    async def compare(self) -> None:
        """Until enough posts were compared. Raises `Unfit` where the candidate breaks on one."""
        while self.agreement.num_posts < self._num_posts:
            posts = [await self._waiting.get()]
            while len(posts) < SHADOW_BATCH and not self._waiting.empty():
                posts.append(self._waiting.get_nowait())
            act = partial(tag_in_shadow, self._tagger, posts, same_tower=self._same_tower)
            try:
                taggings = await self._batcher.between_batches(act)
            except Exception as error:
                # The border to a checkpoint that nothing depends on yet.
                raise Unfit(f"it fails on posts ({type(error).__name__}: {str(error)[:200]})") from error
            for post, tagging in zip(posts, taggings, strict=True):
                self.agreement.add(post.spans, tagging.spans)
