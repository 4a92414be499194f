"""Marks of deleted posts, for one that comes late: nametag:deleted:…, by the digest of its id.

They lead to nothing, and may be kept apart from pictures, where none can crowd them out. Each post is asked for once it
is tagged, and those of a batch at the same moment: what is asked in one turn of asyncio's loop goes as one question.
"""

import asyncio
import hashlib
from collections.abc import Sequence

from worker.cache import Cache, CacheUnsure

MARK_SECONDS = 9 * 86_400.0
MOST_AT_ONCE = 64
"""Marks in a question: its answer has to be there in the time of one."""


class DeleteMarks:
    """The marks, in a cache. For asyncio's loop."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._asked: dict[str, asyncio.Future[bool]] = {}
        self._questions: set[asyncio.Task[None]] = set()

    async def mark(self, post_id: str) -> None:
        """Remember that the post is deleted. Raises `CacheUnsure`."""
        await self._cache.keep(_key(post_id), b"1", MARK_SECONDS)

    async def is_marked(self, post_id: str) -> bool:
        """Whether the post was marked before this was asked. Raises `CacheUnsure`."""
        key = _key(post_id)
        answer = self._asked.get(key)
        if answer is None:
            loop = asyncio.get_running_loop()
            if not self._asked:
                loop.call_soon(self._ask)
            answer = self._asked[key] = loop.create_future()
        # Somebody else may wait for the same.
        return await asyncio.shield(answer)

    def _ask(self) -> None:
        asked, self._asked = list(self._asked.items()), {}
        for start in range(0, len(asked), MOST_AT_ONCE):
            question = asyncio.create_task(self._answer(dict(asked[start : start + MOST_AT_ONCE])))
            self._questions.add(question)
            question.add_done_callback(self._questions.discard)

    async def _answer(self, asked: dict[str, asyncio.Future[bool]]) -> None:
        found: Sequence[bytes | CacheUnsure | None]
        try:
            found = await self._cache.recall_all(list(asked))
        except CacheUnsure as error:
            found = [error] * len(asked)
        except BaseException:
            for answer in asked.values():
                answer.cancel()
            raise
        for answer, value in zip(asked.values(), found, strict=True):
            if answer.done():
                continue
            if isinstance(value, CacheUnsure):
                answer.set_exception(value)
                answer.exception()  # whoever asked may have gone
            else:
                answer.set_result(value is not None)


def _key(post_id: str) -> str:
    return f"nametag:deleted:{hashlib.sha256(post_id.encode('utf-8', 'replace')).hexdigest()}"
