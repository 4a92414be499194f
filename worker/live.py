"""The posts as they are tagged, for who watches: the pipeline puts in, and each watcher takes out at its own pace.

Nothing waits for a watcher, and none sees more than `PER_SECOND` posts a second. What a tombstone names is gone
at once: from the ring for newcomers, from what waits for a watcher, and with its picture.
"""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from consumers.deletes import Tombstone
from consumers.events import EntityEvent
from consumers.source import Position
from worker.batch_runner import Tagged
from worker.images import FoundFeatures, FoundPixels
from worker.live_pictures import Gallery
from worker.live_post import post_json
from worker.publish import Outcome

PER_SECOND = 20
MAX_WATCHERS = 16
RING = 50
MAX_QUEUED = 100
MAX_GONE = 10_000
MAX_AWAITED = 128
"""Posts that are tagged and not yet published, whose attention and pixels are held for the page."""

_Place = tuple[str, int, int]


class TooManyWatchers(Exception):
    """Raised where `MAX_WATCHERS` are there already, or the hub is closed."""


@dataclass(frozen=True, slots=True)
class _Awaited:
    """What is known of a post before its event is out."""

    post_id: str
    attention: tuple[float, ...] | None
    digest: str | None
    pixels: np.ndarray | None


class Shown:
    """A post for the page."""

    def __init__(self, event: EntityEvent, attention: tuple[float, ...] | None) -> None:
        self.id = event.id
        self.digest = event.image.digest
        self._event = event
        self._attention = attention

    @cached_property
    def json(self) -> bytes:
        """Made once, for the first who watches."""
        return post_json(self._event, self._attention)


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What a watcher takes out; `gone` comes before `posts`, among which one may have come again."""

    gone: tuple[str, ...]
    posts: tuple[Shown, ...]


class Watcher:
    """One page that is open. Its queue drops the oldest posts, and no tombstone."""

    def __init__(self, num_skipped: int) -> None:
        self.is_over = False
        self._num_skipped = num_skipped
        self._num_dropped = 0
        self._posts: deque[Shown] = deque()
        self._gone: dict[str, None] = {}
        self._news = asyncio.Event()

    def put(self, shown: Shown) -> None:
        """Queue a post, in place of the oldest where there is no room."""
        if len(self._posts) >= MAX_QUEUED:
            self._posts.popleft()
            self._num_dropped += 1
        self._posts.append(shown)
        self._news.set()

    def forget(self, post_id: str) -> None:
        """Queue a tombstone, and drop its post where that waits here."""
        self._posts = deque(shown for shown in self._posts if shown.id != post_id)
        self._gone[post_id] = None
        if len(self._gone) > MAX_GONE:
            # It comes back by itself, and then is told what still stands.
            self.end()
        self._news.set()

    def end(self) -> None:
        """Let the watcher go."""
        self.is_over = True
        self._news.set()

    async def take(self, seconds: float) -> News:
        """What is new; nothing, where that is so for `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return News(gone=(), posts=())
        self._news.clear()
        news = News(gone=tuple(self._gone), posts=tuple(self._posts))
        self._gone.clear()
        self._posts.clear()
        return news

    def num_skipped(self, hub: "LiveHub") -> int:
        """How many posts this one wasn't shown since it came."""
        return hub.num_skipped - self._num_skipped + self._num_dropped


class LiveHub:
    """Between the pipeline and the watchers; while there is none it keeps a few references, and computes nothing."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.pictures = Gallery()
        self.num_skipped = 0
        self._clock = clock
        self._watchers: set[Watcher] = set()
        self._ring: OrderedDict[str, Shown] = OrderedDict()
        self._awaited: OrderedDict[_Place, _Awaited] = OrderedDict()
        self._allowance = float(PER_SECOND)
        self._allowed_at = clock()
        self._is_closed = False

    def tagged(
        self, post_id: str, position: Position, tagged: Tagged | None, picture: FoundFeatures | FoundPixels | None
    ) -> None:
        """A post is tagged, and will be published or not. Chooses whether it is to be seen."""
        if not self._may_show():
            self.num_skipped += 1
            return
        place = (position.partition.topic, position.partition.number, position.offset)
        self._awaited[place] = _Awaited(
            post_id=post_id,
            attention=tagged.tagging.attention if tagged else None,
            digest=picture.digest if picture else None,
            pixels=picture.pixels if self._watchers and isinstance(picture, FoundPixels) else None,
        )
        if len(self._awaited) > MAX_AWAITED:
            self._awaited.popitem(last=False)
            self.num_skipped += 1

    def published(self, outcome: Outcome) -> None:
        """What went out for a message."""
        if isinstance(outcome, EntityEvent):
            position = outcome.position
            awaited = self._awaited.pop((position.topic, position.partition, position.offset), None)
            if awaited is not None:
                self._show(outcome, awaited)
        elif isinstance(outcome, Tombstone):
            self._forget(outcome.id)

    def join(self) -> tuple[Watcher, tuple[Shown, ...]]:
        """A new watcher, and the last posts before it. Raises `TooManyWatchers`."""
        if self._is_closed or len(self._watchers) >= MAX_WATCHERS:
            raise TooManyWatchers
        watcher = Watcher(self.num_skipped)
        self._watchers.add(watcher)
        return watcher, tuple(self._ring.values())

    def leave(self, watcher: Watcher) -> None:
        """A watcher is gone; with the last one go the pictures."""
        self._watchers.discard(watcher)
        if not self._watchers:
            self.pictures.clear()
            for place, awaited in self._awaited.items():
                self._awaited[place] = replace(awaited, pixels=None)

    def close(self) -> None:
        """Let all watchers go, and no others in."""
        self._is_closed = True
        for watcher in self._watchers:
            watcher.end()

    def _may_show(self) -> bool:
        now = self._clock()
        self._allowance = min(PER_SECOND, self._allowance + (now - self._allowed_at) * PER_SECOND)
        self._allowed_at = now
        if self._allowance < 1:
            return False
        self._allowance -= 1
        return True

    def _show(self, event: EntityEvent, awaited: _Awaited) -> None:
        shown = Shown(event, awaited.attention)
        self._ring[event.id] = shown
        self._ring.move_to_end(event.id)
        if len(self._ring) > RING:
            self._ring.popitem(last=False)
        if not self._watchers:
            return
        if awaited.digest is not None:
            self.pictures.note(event.id, awaited.digest, awaited.pixels)
        for watcher in self._watchers:
            watcher.put(shown)

    def _forget(self, post_id: str) -> None:
        self._ring.pop(post_id, None)
        for place in [place for place, awaited in self._awaited.items() if awaited.post_id == post_id]:
            del self._awaited[place]
        self.pictures.forget(post_id)
        for watcher in self._watchers:
            watcher.forget(post_id)
