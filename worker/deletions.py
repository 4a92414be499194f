"""Deletes: which posts are covered by one, and what goes with them."""

import asyncio
import logging
from collections import OrderedDict

from consumers.deletes import Delete, Tombstone
from consumers.source import Message
from consumers.wire import PositionReport
from worker.cache import CacheUnsure
from worker.images import ImageSource
from worker.metrics import Metrics
from worker.publish import Arrival

log = logging.getLogger("nametag.deletions")

MAX_POSTS = 65_536

PURGE_PAUSES = (0.3, 1.0)
"""Before the cache is told once more of a delete that it didn't confirm: it may have been busy for a moment."""

OWED_SECONDS = 5.0
"""Between tries of what was given up so."""


class DeletedPosts:
    """The last `MAX_POSTS` deletes."""

    def __init__(self) -> None:
        self._deletes: OrderedDict[str, Arrival | None] = OrderedDict()

    def note(self, post_id: str, delete: Arrival, *, is_final: bool) -> None:
        """That the post is deleted. Unless that is final, a post behind it is a new one."""
        was_final = self._deletes.get(post_id, delete) is None
        # Without its bytes, which nobody needs any more.
        bare = Arrival(Message(position=delete.message.position, value=None), delete.number)
        self._deletes[post_id] = None if is_final or was_final else bare
        self._deletes.move_to_end(post_id)
        if len(self._deletes) > MAX_POSTS:
            self._deletes.popitem(last=False)

    def covers(self, post_id: str, post: Arrival) -> bool:
        """Whether the post that came so is deleted."""
        if post_id not in self._deletes:
            return False
        delete = self._deletes[post_id]
        return delete is None or post.is_before(delete)


class Deletions:
    """Obeys deletes, and knows the posts that must not go out any more: of this worker, and of its cache."""

    def __init__(self, images: ImageSource, metrics: Metrics) -> None:
        self._images = images
        self._metrics = metrics
        self._posts = DeletedPosts()
        self._owed: dict[str, bool] = {}
        """Deletes that the cache didn't confirm, and whether they are final; the oldest leave first."""
        self._paying: asyncio.Task[None] | None = None

    async def obey(self, delete: Delete, arrival: Arrival) -> Tombstone:
        """Cover its post from now on, drop what is kept of it, and give the tombstone that is to go out."""
        self._posts.note(delete.id, arrival, is_final=delete.is_final)
        await self._forget(delete.id, is_final=delete.is_final)
        position = PositionReport.of(arrival.message.position)
        return Tombstone(id=delete.id, deleted_at=delete.deleted_at, position=position)

    def covers(self, post_id: str, post: Arrival) -> bool:
        """Whether the post is deleted, as far as this worker was told."""
        return self._posts.covers(post_id, post)

    async def cover(self, post_ids: tuple[str, ...], arrival: Arrival) -> bool:
        """Whether one of these posts is deleted, here or as the cache has it; what was kept of it goes then."""
        is_deleted = False
        for post_id in post_ids:
            is_gone = self.covers(post_id, arrival) or await self._is_marked(post_id)
            # Once more, for a delete that came while the cache was asked.
            if is_gone or self.covers(post_id, arrival):
                is_deleted = True
                await self._forget(post_id, is_final=False)
        return is_deleted

    async def _is_marked(self, post_id: str) -> bool:
        try:
            return await self._images.is_deleted(post_id)
        except CacheUnsure:
            # A cache in trouble costs no post; but somebody has to know that deleted ones may go out.
            self._metrics.unsure_deletes.inc()
            return False

    async def _forget(self, post_id: str, *, is_final: bool) -> None:
        for pause in (*PURGE_PAUSES, None):
            if await self._images.forget(post_id, is_final=is_final):
                return
            if pause is not None:
                await asyncio.sleep(pause)
        self._metrics.purge_failures.inc()
        log.warning("purge_failed", extra={"post_id": post_id, "tries": len(PURGE_PAUSES) + 1})
        self._owed[post_id] = is_final or self._owed.get(post_id, False)
        if len(self._owed) > MAX_POSTS:
            del self._owed[next(iter(self._owed))]
        if self._paying is None or self._paying.done():
            self._paying = asyncio.create_task(self._pay())

    async def _pay(self) -> None:
        """Do what the cache didn't confirm, once it is back: a late post would find no mark else."""
        while self._owed:
            await asyncio.sleep(OWED_SECONDS)
            for post_id, is_final in list(self._owed.items()):
                if not await self._images.forget(post_id, is_final=is_final):
                    break
                self._owed.pop(post_id, None)
                log.info("purge_made_up", extra={"post_id": post_id, "num_left": len(self._owed)})
