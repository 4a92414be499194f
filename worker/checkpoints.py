"""Which checkpoint is in use, and how another takes its place while posts go on.

named     a watched file was replaced, or a key of Redis names another (worker/checkpoint_place.py)
loaded    beside the one in use, on a thread of its own
checked   there, on a sample (worker/shadow.py): on the device's thread it would hold up a batch for its length.
          Refused for what may pass, it is tried again (worker/checkpoint_attempts.py)
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

from model.tagging import TaggedSpan
from worker.batch_runner import BatchRunner, Prepared
from worker.batches import Batcher
from worker.checkpoint_attempts import CheckpointAttempts
from worker.checkpoint_place import CheckpointPlace, Named, check_is_file
from worker.errors import TaggerBroken, WorkerError
from worker.garbage import give_back_memory
from worker.images import ImageSource
from worker.metrics import Metrics
from worker.own_thread import OwnThread
from worker.post_tagger import PostTagger
from worker.shadow import Shadow, ShadowPost, Unfit, check_on_sample, sample_agreement, words_in_names
from worker.tagger_process import close_process

log = logging.getLogger("nametag.checkpoints")

NOT_AGAIN = "it isn't tried again until its file changes, or another is named"

MOST_FAILURES = 3
"""So many posts that only the new checkpoint breaks on put the one before in use again."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InUse:
    """A checkpoint that posts can be tagged with: the tagger, its batches, and pictures as its tower sees them."""

    tagger: PostTagger
    runner: BatchRunner
    images: ImageSource
    tower_digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fit:
    """A candidate that may take over, and what is told of it: its file, and how far it agrees with the one before."""

    in_use: InUse
    told: dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapConfig:
    """`trial_seconds` is how long the checkpoint before is kept, to fall back on.

    `least_agreement_on_sample` is asked of every candidate (`worker.shadow.sample_agreement`); at 0 it isn't. With a
    `shadow_share` above 0 a candidate tags that share of the posts too, and takes over once `shadow_posts` were
    compared and at least `least_agreement` of the names are the same.
    """

    poll_seconds: float = 5.0
    trial_seconds: float = 300.0
    shadow_share: float = 0.0
    shadow_posts: int = 500
    least_agreement: float = 0.5
    least_agreement_on_sample: float = 0.2

    def __post_init__(self) -> None:
        for name in ("poll_seconds", "trial_seconds", "shadow_posts"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        for name in ("shadow_share", "least_agreement", "least_agreement_on_sample"):
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
        self._attempts = CheckpointAttempts(self._config.poll_seconds)
        self._shadow: Shadow | None = None
        self._shadow_tower = ""
        self._has_let_go = False
        """Whether a checkpoint was settled, given up or refused, so that at the next look its memory is free."""
        self._told: dict[str, object] = {}
        """What is told of the one in use, when it is given up."""
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
        if self._has_let_go:
            self._has_let_go = False
            await self._loader.call(give_back_memory)
        named = await self._place.look() if self._place is not None else None
        if named is None or not self._attempts.begins(named):
            return
        log.info("checkpoint_found", extra={"file": named.path.name})
        try:
            fit = await self._fit(named)
        except Exception as error:
            # The border to a stranger's file: whatever it breaks, the one in use goes on.
            self._refuse(named, error)
            return
        if fit is not None:
            self._swap(fit)

    def note(self, in_use: InUse, text: str, prepared: Prepared, spans: tuple[TaggedSpan, ...]) -> None:
        """A post was tagged: a candidate may be shown it, too."""
        if self._shadow is not None and in_use is self.current and random.random() < self._config.shadow_share:
            same_tower = in_use.tower_digest == self._shadow_tower
            self._shadow.show(ShadowPost(text=text, prepared=prepared, spans=spans, same_tower=same_tower))

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
        """Let go of where checkpoints are named, and of those that tag."""
        self._loader.end()
        for each in (self.current, self._previous):
            if each is not None:
                close_process(each.tagger)
        if self._place is not None:
            await self._place.close()

    async def _fit(self, named: Named) -> _Fit | None:
        """The candidate in the file; None where it is the one in use, or another was named meanwhile."""
        assert self._build is not None
        # On a thread that nobody waits for at the end: a file may be on a disk that doesn't answer.
        await self._loader.call(partial(check_is_file, named.path))
        candidate = await self._loader.call(partial(self._build, named.path))
        if candidate.tagger.checkpoint_id == self.current.tagger.checkpoint_id:
            log.info("checkpoint_same", extra={"id": candidate.tagger.checkpoint_id})
            return None
        await self._loader.call(partial(check_on_sample, candidate.tagger))
        told: dict[str, object] = {"file": named.path.name, "agreement_on_sample": await self._agreement(candidate)}
        if self._config.shadow_share > 0:
            ratio = await self._shadowed(candidate)
            if ratio is None:
                return None
            told["agreement"] = round(ratio, 3)
        return _Fit(in_use=candidate, told=told)

    async def _agreement(self, candidate: InUse) -> float | None:
        """How far it agrees with the one in use on the sample; None where that can't be told. Raises `Unfit`."""
        least = self._config.least_agreement_on_sample
        theirs = await self._loader.call(partial(words_in_names, candidate.tagger))
        # Few and short; and on its own thread, for it is at work there.
        ours = await self._batcher.between_batches(partial(words_in_names, self.current.tagger))
        agreement = sample_agreement(theirs, ours)
        if least > 0 and agreement is not None and agreement < least:
            raise Unfit(f"it finds names in {sum(theirs)} words of the sample, the one in use in {sum(ours)} of "
                        f"{len(ours)}, and beyond chance they agree by {agreement:.2f}; at least {least:.2f} is asked "
                        "for (checkpoints.least_agreement_on_sample)")  # fmt: skip
        return None if agreement is None else round(agreement, 3)

    async def _shadowed(self, candidate: InUse) -> float | None:
        """How many names are the same; None where another file is named before that is known. Raises `Unfit`."""
        config = self._config
        self._shadow_tower = candidate.tower_digest
        self._shadow = Shadow(candidate.tagger, self._batcher, config.shadow_posts)
        extra = {"id": candidate.tagger.checkpoint_id, "num_posts": config.shadow_posts}
        log.info("checkpoint_shadowing", extra=extra)
        try:
            comparing = asyncio.create_task(self._shadow.compare())
            try:
                while not (await asyncio.wait({comparing}, timeout=config.poll_seconds))[0]:
                    self._end_trial_in_time()
                    self._metrics.agreement.set(self._shadow.agreement.ratio)
                    assert self._place is not None
                    if (named := await self._place.look()) is not None and self._attempts.is_new(named):
                        log.info("checkpoint_overtaken", extra=extra)
                        return None
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
        return ratio

    def _refuse(self, named: Named, error: Exception) -> None:
        self._metrics.checkpoint_changes.labels("refused").inc()
        self._has_let_go = True
        pause = self._attempts.failed(error)
        extra: dict[str, object] = {
            "file": named.path.name,
            "reason": (str(error) or type(error).__name__)[:500],
            "kept": self.current.tagger.checkpoint_id,
            # Not what to do: the reason says that itself, where anything can be done.
            "next": NOT_AGAIN if pause is None else f"it is tried again in {pause:.1f} s",
        }
        log.error("checkpoint_refused", extra=extra)

    def _swap(self, fit: _Fit) -> None:
        before, self.current = self.current, fit.in_use
        # While one is on trial, the one that stood its own is kept: two bad ones may follow each other.
        self._previous = self._previous or before
        self._num_failures = 0
        self._trial_until = time.monotonic() + self._config.trial_seconds
        self._metrics.checkpoint_changes.labels("swapped").inc()
        self._tell_current(before)
        self._told = fit.told
        ids = {"before": before.tagger.checkpoint_id, "now": self.current.tagger.checkpoint_id}
        log.info("checkpoint_swapped", extra={**ids, **self._told})

    def _roll_back(self, reason: str) -> None:
        assert self._previous is not None
        rejected, self.current, self._previous = self.current, self._previous, None
        self._metrics.checkpoint_changes.labels("rolled_back").inc()
        self._has_let_go = True
        self._tell_current(rejected)
        ids = {"given_up": rejected.tagger.checkpoint_id, "now": self.current.tagger.checkpoint_id}
        why = {"reason": reason[:500], "next": NOT_AGAIN}
        log.error("checkpoint_rolled_back", extra={**ids, **self._told, **why})

    def _end_trial_in_time(self) -> None:
        if self._previous is not None and time.monotonic() >= self._trial_until:
            self._previous = None
            self._has_let_go = True
            log.info("checkpoint_settled", extra={"id": self.current.tagger.checkpoint_id})

    def _tell_current(self, before: InUse | None = None) -> None:
        if before is not None:
            self._metrics.checkpoint.remove(before.tagger.checkpoint_id, before.tagger.variant)
        self._metrics.checkpoint.labels(self.current.tagger.checkpoint_id, self.current.tagger.variant).set(1)
