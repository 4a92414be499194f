"""Commands to Redis, those of one turn of asyncio's loop in one question.

Of what a command costs, most is not the command: a connection is taken from the pool, written to, waited for and given
back. Posts are prepared and published many at a time, so that many ask in the same turn.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster

Command = tuple[str | bytes | float, ...]

MOST_TOGETHER = 16
"""Calls in a question: the first of them waits for the last, and their answers have to be there in the time of one."""
MOST_BYTES = 1024 * 1024
"""Of a question, where it has more than one call."""
TURNS_OF_GRACE = 16
"""Of asyncio's loop, before a question's time is over: where others held the loop up, an answer lies there unread."""


class NoTurn(Exception):
    """Raised where a call's time was over before it had its turn, or nearly: there is much to do, and no trouble."""


@dataclass(frozen=True, slots=True)
class _Call:
    commands: Sequence[Command]
    num_bytes: int
    by: float
    replies: asyncio.Future[list[object]]


class Together:
    """Asks `client`, at most `num_questions` at a time, which may take `timeout_seconds` each. For asyncio's loop.

    A cluster is asked for each call by itself: a node that hangs must not hold up the answers of others.
    """

    def __init__(self, client: Redis | RedisCluster, *, num_questions: int, timeout_seconds: float) -> None:
        self._client = client
        self._most = 1 if isinstance(client, RedisCluster) else MOST_TOGETHER
        self._num_free = num_questions
        self._timeout_seconds = timeout_seconds
        self._calls: deque[_Call] = deque()
        self._questions: set[asyncio.Task[None]] = set()
        self._is_called = False

    async def ask(self, *commands: Command, by: float | None = None) -> list[object]:
        """The replies to `commands`, which Redis gets in this order. Raises the first that is an error.

        `by`, in asyncio's time, is when its turn has to have come; its question ends when those it is with want their
        answers, `timeout_seconds` later at most. Raises `NoTurn`, and TimeoutError where Redis let it wait.
        """
        loop = asyncio.get_running_loop()
        num_bytes = sum(len(word) for command in commands for word in command if isinstance(word, bytes))
        own = loop.time() + self._timeout_seconds
        call = _Call(commands, num_bytes, own if by is None else min(by, own), loop.create_future())
        self._calls.append(call)
        if not self._is_called:
            self._is_called = True
            loop.call_soon(self._send)
        return await call.replies

    def _send(self) -> None:
        self._is_called = False
        while self._num_free and (calls := self._next()):
            self._num_free -= 1
            question = asyncio.create_task(self._put(calls))
            self._questions.add(question)
            question.add_done_callback(self._answered)

    def _next(self) -> list[_Call]:
        calls: list[_Call] = []
        num_bytes = 0
        now = asyncio.get_running_loop().time()
        while self._calls and len(calls) < self._most:
            call = self._calls[0]
            num_bytes += call.num_bytes
            if calls and num_bytes > MOST_BYTES:
                break
            self._calls.popleft()
            if call.by <= now:
                _settle(call, NoTurn())
            elif not call.replies.done():  # else nobody waits for it any more
                calls.append(call)
        return calls

    def _answered(self, question: asyncio.Task[None]) -> None:
        self._questions.discard(question)
        self._num_free += 1
        self._send()

    async def _put(self, calls: Sequence[_Call]) -> None:
        loop = asyncio.get_running_loop()
        by = max(call.by for call in calls)
        has_time = by - loop.time() >= self._timeout_seconds / 2
        try:
            async with asyncio.timeout(None) as limit:
                waking = loop.call_at(by, _end, limit, TURNS_OF_GRACE)
                try:
                    replies = await self._replies([command for call in calls for command in call.commands])
                finally:
                    waking.cancel()
        except asyncio.CancelledError:
            for call in calls:
                call.replies.cancel()
            raise
        except Exception as error:  # whoever asked knows what to make of it
            told = error if has_time or not isinstance(error, TimeoutError) else NoTurn()
            for call in calls:
                _settle(call, told)
            return
        rest = iter(replies)
        for call in calls:
            own = [next(rest) for _ in call.commands]
            _settle(call, next((reply for reply in own if isinstance(reply, Exception)), own))

    async def _replies(self, commands: Sequence[Command]) -> Sequence[object]:
        if len(commands) == 1:
            return [await self._client.execute_command(*commands[0])]
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        replies: list[object] = await pipeline.execute(raise_on_error=False)
        if len(replies) != len(commands):
            raise ConnectionError("Redis gave fewer answers than it was asked for")
        return replies


def _end(limit: asyncio.Timeout, num_turns: int) -> None:
    """Have the time be over in so many turns of the loop."""
    loop = asyncio.get_running_loop()
    if num_turns:
        loop.call_soon(_end, limit, num_turns - 1)
    elif limit.when() is None:
        limit.reschedule(loop.time())


def _settle(call: _Call, result: list[object] | Exception) -> None:
    if call.replies.done():
        return
    if isinstance(result, Exception):
        call.replies.set_exception(result)
        call.replies.exception()  # whoever asked may have gone
    else:
        call.replies.set_result(result)
