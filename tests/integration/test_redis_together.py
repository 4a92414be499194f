"""Commands of one turn go to Redis in one question, and each call gets its own replies."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from uuid import uuid4

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from worker.redis_together import MOST_BYTES, MOST_TOGETHER, TURNS_OF_GRACE, Command, NoTurn, Together


class Counting(Together):
    """Tells how many commands each question had."""

    def __init__(self, client: Redis, **limits: float) -> None:
        super().__init__(client, **{"num_questions": 4, "timeout_seconds": 5.0} | limits)  # type: ignore[arg-type]
        self.questions: list[int] = []

    async def _replies(self, commands: list[Command]) -> list[object]:  # type: ignore[override]
        self.questions.append(len(commands))
        return await super()._replies(commands)  # type: ignore[return-value]


def run(redis_url: str, scenario: Callable[[Counting], Awaitable[None]], **limits: float) -> list[int]:
    """The questions that were put."""

    async def whole() -> list[int]:
        async with Redis.from_url(redis_url) as client:
            together = Counting(client, **limits)
            await scenario(together)
            return together.questions

    return asyncio.run(whole())


def test_calls_of_one_turn_share_a_question(redis_url: str) -> None:
    """Up to a number; in their order; each has the replies to its own commands, whatever how many."""
    key = uuid4().hex

    async def scenario(together: Counting) -> None:
        names = [f"{key}{number}" for number in range(MOST_TOGETHER + 3)]
        calls = [together.ask(("SET", name, str(n), "EX", 60), ("GET", name)) for n, name in enumerate(names)]
        assert await asyncio.gather(*calls) == [[True, str(n).encode()] for n in range(len(names))]
        assert await together.ask(("GET", key)) == [None]

    assert run(redis_url, scenario) == [2 * MOST_TOGETHER, 6, 1]


def test_an_error_is_its_own_calls(redis_url: str) -> None:
    """The others of the question have their replies, and those of its commands that were right were done."""
    key = uuid4().hex

    async def scenario(together: Counting) -> None:
        await together.ask(("SET", key, "x", "EX", 60))
        wrong = together.ask(("SET", key + "b", "y", "EX", 60), ("ZCARD", key))
        told = await asyncio.gather(together.ask(("GET", key)), wrong, return_exceptions=True)
        assert told[0] == [b"x"]
        assert isinstance(told[1], ResponseError)
        assert await together.ask(("GET", key + "b")) == [b"y"]

    assert run(redis_url, scenario) == [1, 3, 1]


def test_what_nobody_waits_for_is_not_asked(redis_url: str) -> None:
    """A call that was given up before its turn came; one that was given up later leaves the others theirs."""
    key = uuid4().hex

    async def scenario(together: Counting) -> None:
        waiting = [asyncio.create_task(together.ask(("INCR", key))) for _ in range(3)]
        await asyncio.sleep(0)  # all of them have asked; what they asked is sent in the next turn
        waiting[0].cancel()
        await asyncio.sleep(0.001)
        assert together.questions == [2]
        waiting[1].cancel()
        assert await waiting[2] == [2]
        await together.ask(("DEL", key))

    assert run(redis_url, scenario) == [2, 1]


def test_a_question_is_bounded_in_bytes(redis_url: str) -> None:
    """Its answers have to be there in the time of one; what is too large for a question with others has one alone."""
    key, half = uuid4().hex, b"x" * (MOST_BYTES // 2)

    async def scenario(together: Counting) -> None:
        sizes = (half, half, half, 3 * half, half)
        put = [together.ask(("SET", f"{key}{n}", value, "EX", 20)) for n, value in enumerate(sizes)]
        assert await asyncio.gather(*put) == [[True]] * 5

    assert run(redis_url, scenario) == [2, 1, 1, 1]


def test_questions_are_bounded_and_so_is_their_time(redis_url: str) -> None:
    """What there is no question free for goes in the next, together with whatever came meanwhile; a hung one ends."""
    key = uuid4().hex

    async def scenario(together: Counting) -> None:
        hung = asyncio.create_task(together.ask(("BLPOP", key, 30)))
        await asyncio.sleep(0.05)
        asked = [asyncio.create_task(together.ask(("GET", key))) for _ in range(3)]
        with pytest.raises(TimeoutError):
            await hung
        assert await asyncio.gather(*asked) == [[None]] * 3

    assert run(redis_url, scenario, num_questions=1, timeout_seconds=0.3) == [1, 3]


def test_an_answer_that_the_loop_found_late_is_an_answer(redis_url: str) -> None:
    """Others held the loop up beyond the question's time: the answer lies there, and nothing ends afterwards."""
    key, told = uuid4().hex, []

    async def scenario(together: Counting) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context))
        await together.ask(("SET", key, "x", "EX", 60))
        asked = asyncio.create_task(together.ask(("GET", key)))
        for _ in range(4):  # it is on its way then
            await asyncio.sleep(0)
        assert len(together.questions) == 2
        time.sleep(0.3)  # noqa: ASYNC251  # what others do
        assert await asked == [b"x"]
        for _ in range(2 * TURNS_OF_GRACE):
            await asyncio.sleep(0)

    run(redis_url, scenario, timeout_seconds=0.05)
    assert told == []


def test_a_call_does_not_wait_for_those_that_have_more_time(redis_url: str) -> None:
    """Neither in a question with them nor for its turn; and what has no time left is no trouble with Redis."""
    key = uuid4().hex

    async def scenario(together: Counting) -> None:
        loop = asyncio.get_running_loop()

        async def soon() -> float:
            by = loop.time() + 0.1
            with pytest.raises(NoTurn):
                await together.ask(("GET", key), by=by)
            return loop.time() - by

        hung = asyncio.create_task(together.ask(("BLPOP", key, 30)))
        late = [await soon(), await soon()]
        await asyncio.wait({hung})
        assert max(late) < 0.4

    assert run(redis_url, scenario, num_questions=1, timeout_seconds=1.0) == [2]


def test_fewer_share_a_question_where_it_was_too_much(redis_url: str) -> None:
    """It is no trouble with Redis; one by one they have their answers, and then by twos again."""
    key = uuid4().hex

    async def scenario(together: Counting) -> None:
        for _ in range(2):
            slow = [together.ask(("BLPOP", f"{key}{number}", 0.2)) for number in range(4)]
            told = await asyncio.gather(*slow, return_exceptions=True)
            assert [type(each) for each in told] == [NoTurn] * 4
        assert await asyncio.gather(*(together.ask(("GET", key)) for _ in range(5))) == [[None]] * 5

    assert run(redis_url, scenario, num_questions=1, timeout_seconds=0.3) == [4, 2, 1, 2, 2]
