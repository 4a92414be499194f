"""The room's bounds stop the intake."""

import asyncio

import pytest

from consumers.source import Message, Partition, Position
from worker.room import Room, RoomLimits


def test_headers_take_room_too() -> None:
    """A message is as large as all of it, or its sender could fill the memory by headers alone."""
    position = Position(Partition("posts", 0), 0)
    bare = Message(position=position, value=b"12")
    assert Message(position=position, value=b"12", headers=(("name", b"x" * 900),)).num_bytes == bare.num_bytes + 904
    assert bare.num_bytes > 2


def test_the_intake_waits_for_room() -> None:
    """A post beyond the limit of posts or bytes waits until one leaves."""

    async def scenario() -> None:
        room = Room(RoomLimits(max_posts=2, max_bytes=100))
        await room.enter(60)
        waiting = asyncio.create_task(room.enter(60))
        await asyncio.sleep(0)
        assert not waiting.done()
        await room.leave(60)
        await waiting
        await room.enter(10)
        third = asyncio.create_task(room.enter(1))
        await asyncio.sleep(0)
        assert not third.done()
        await room.leave(10)
        await third

    asyncio.run(scenario())


def test_a_post_larger_than_the_room_fits_alone() -> None:
    """A limit of bytes below one post's does not stop the worker for good."""

    async def scenario() -> None:
        room = Room(RoomLimits(max_posts=2, max_bytes=10))
        await asyncio.wait_for(room.enter(1000), 1)
        await room.leave(1000)
        await asyncio.wait_for(room.wait_empty(), 1)

    asyncio.run(scenario())


def test_a_senseless_limit_is_refused() -> None:
    """The refusal names the field."""
    with pytest.raises(ValueError, match="max_posts"):
        RoomLimits(max_posts=0)
