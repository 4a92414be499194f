"""Commands to Redis, those of one turn of asyncio's loop in one question.

Of what a command costs, most is not the command: a connection is taken from the pool, written to, waited for and given
back. Posts are prepared and published many at a time, so that many ask in the same turn.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster

Command = tuple[str | bytes | float, ...]

MOST_TOGETHER = 16
"""Calls in a question: the first of them waits for the last, and their answers have to be there in the time of one.
Fewer where that was too much, as of large values it is."""
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
        self._is_cluster = isinstance(client, RedisCluster)
        self._most = 1 if self._is_cluster else MOST_TOGETHER
        self._num_free = num_questions
        self._timeout_seconds = timeout_seconds
        self._calls: deque[_Call] = deque()
        self._questions: set[asyncio.Task[None]] = set()
        self._is_called = False
        self._is_closed = False

    async def ask(self, *commands: Command, by: float | None = None) -> list[object]:
        """The replies to `commands`, which Redis gets in this order. Raises the first that is an error.

        `by`, in asyncio's time, is when they are wanted; an eighth of `timeout_seconds` later nobody waits for them any
        more. Without it a call has `timeout_seconds` for its turn, and its question ends when those it is with want
        their answers. Raises `NoTurn`, and TimeoutError where Redis let it wait.
        """
        if self._is_closed:
            raise NoTurn
        loop = asyncio.get_running_loop()
        num_bytes = sum(len(word) for command in commands for word in command if isinstance(word, bytes))
        own = loop.time() + self._timeout_seconds
        call = _Call(commands, num_bytes, own if by is None else min(by, own), loop.create_future())
        self._calls.append(call)
        if not self._is_called:
            self._is_called = True
            loop.call_soon(self._send)
        if by is None:
            return await call.replies
        # Behind the end of a question that has no more time than this: that one says whether Redis let it wait.
        end = _End(call.by + self._timeout_seconds / 8, lambda: _settle(call, NoTurn()))
        try:
            return await call.replies
        finally:
            end.cancel()

    async def close(self) -> None:
        """Ask nothing more, and wait for the answers to what was asked; what waits has no turn."""
        self._is_closed = True
        while self._calls:
            _settle(self._calls.popleft(), NoTurn())
        if self._questions:
            await asyncio.wait(self._questions)

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
                end = _End(by, lambda: limit.reschedule(loop.time()))
                try:
                    replies = await self._replies([command for call in calls for command in call.commands])
                finally:
                    end.cancel()
        except asyncio.CancelledError:
            for call in calls:
                call.replies.cancel()
            raise
        except Exception as error:  # whoever asked knows what to make of it
            is_late = isinstance(error, TimeoutError)
            is_too_much = is_late and len(calls) > 1
            if is_too_much:
                # A Redis that hangs is soon asked for one call at a time, and then it's told.
                self._most = max(1, min(self._most, len(calls)) // 2)
            told = NoTurn() if is_too_much or (is_late and not has_time) else error
            for call in calls:
                _settle(call, told)
            return
        if len(calls) == self._most and not self._is_cluster:
            self._most = min(MOST_TOGETHER, self._most + 1)
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


class _End:
    """Calls `act` at `at`, in asyncio's time, and some turns of the loop later; unless it is cancelled."""

    __slots__ = ("_act", "_loop", "_next")

    def __init__(self, at: float, act: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._act = act
        self._next: asyncio.Handle = self._loop.call_at(at, self._turn, TURNS_OF_GRACE)

    def _turn(self, num_left: int) -> None:
        if num_left:
            self._next = self._loop.call_soon(self._turn, num_left - 1)
        else:
            self._act()

    def cancel(self) -> None:
        self._next.cancel()


def _settle(call: _Call, result: list[object] | Exception) -> None:
    if call.replies.done():
        return
    if isinstance(result, Exception):
        call.replies.set_exception(result)
        call.replies.exception()  # whoever asked may have gone
    else:
        call.replies.set_result(result)
