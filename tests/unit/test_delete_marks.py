"""Marks of deleted posts: many are asked for in one question, and each post gets its own answer."""

import asyncio
from collections.abc import Sequence

import pytest

from worker.cache import CacheUnsure
from worker.delete_marks import MOST_AT_ONCE, DeleteMarks
from worker.memory_cache import MemoryCache


class Counting(MemoryCache):
    """Tells how many were asked for at once; what it has of some keys can't be known, or of all."""

    def __init__(self) -> None:
        super().__init__(max_bytes=1_000_000)
        self.questions: list[int] = []
        self.corrupt: set[bytes] = set()
        self.is_away = False

    async def recall_all(self, keys: Sequence[str]) -> Sequence[bytes | CacheUnsure | None]:
        self.questions.append(len(keys))
        await asyncio.sleep(0.01)
        if self.is_away:
            raise CacheUnsure
        found = await super().recall_all(keys)
        return [CacheUnsure() if value in self.corrupt else value for value in found]


def test_those_of_a_batch_are_asked_for_together() -> None:
    """Those of one moment, the same once, up to a number; each has its answer, as of when it was asked."""

    async def scenario() -> None:
        marks = DeleteMarks(cache := Counting())
        for number in range(0, 100, 7):
            await marks.mark(str(number))
        asked = [str(number % 80) for number in range(100)]
        found = await asyncio.gather(*map(marks.is_marked, asked))
        assert found == [int(post_id) % 7 == 0 for post_id in asked]
        assert cache.questions == [MOST_AT_ONCE, 80 - MOST_AT_ONCE]
        assert not await marks.is_marked("late")
        await marks.mark("late")
        assert await marks.is_marked("late")
        assert cache.questions[2:] == [1, 1]

    asyncio.run(scenario())


def test_nobody_is_told_what_is_not_known() -> None:
    """Of a cache that is away nobody's, of one that has something else under a key that post's alone."""

    async def scenario() -> None:
        marks = DeleteMarks(cache := Counting())
        await marks.mark("a")
        cache.corrupt = {b"1"}
        told = await asyncio.gather(marks.is_marked("a"), marks.is_marked("b"), return_exceptions=True)
        assert isinstance(told[0], CacheUnsure)
        assert told[1] is False
        cache.is_away = True
        told = await asyncio.gather(marks.is_marked("a"), marks.is_marked("b"), return_exceptions=True)
        assert [type(each) for each in told] == [CacheUnsure, CacheUnsure]

    asyncio.run(scenario())


def test_one_that_leaves_takes_no_answer_from_others() -> None:
    """Posts of a partition that is given up are cancelled while others wait for the same question."""

    async def scenario() -> None:
        marks = DeleteMarks(Counting())
        await marks.mark("a")
        asked = [asyncio.create_task(marks.is_marked(post_id)) for post_id in ("a", "a", "b")]
        await asyncio.sleep(0.005)
        asked[0].cancel()
        asked[2].cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked[0]
        assert await asked[1]

    asyncio.run(scenario())
