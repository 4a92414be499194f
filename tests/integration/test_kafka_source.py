"""`KafkaSource` against a real broker."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from uuid import uuid4

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.errors import RetriableError

from consumers.errors import SourceUnavailable
from consumers.kafka import KafkaConnection, KafkaSource, KafkaSourceConfig
from consumers.source import Message, Offsets, Partition

Make = Callable[..., KafkaSource]


@pytest.fixture
def make_source(kafka_bootstrap: str, topics: Any) -> Make:
    """Makes members of one group, which no other test knows."""
    group = f"group-{uuid4().hex[:8]}"

    def make(**changes: Any) -> KafkaSource:
        settings = {"topic": topics.posts, "group_id": group, "session_timeout_ms": 6000}
        return KafkaSource(
            KafkaConnection(bootstrap_servers=(kafka_bootstrap,)),
            KafkaSourceConfig(**{**settings, **changes}),
        )

    return make


@pytest.fixture
def send(kafka_bootstrap: str, topics: Any) -> Iterator[Callable[[int], None]]:
    """Sends so many posts, dealt out over the partitions."""
    producer = KafkaProducer(bootstrap_servers=kafka_bootstrap)

    def send_posts(number: int) -> None:
        for i in range(number):
            producer.send(topics.posts, b"%d" % i, partition=i % topics.num_partitions)
        producer.flush(timeout=10)

    yield send_posts
    producer.close(timeout=5)


async def nothing_to_commit(_partitions: frozenset[Partition]) -> Offsets:
    return {}


async def receive(source: KafkaSource, number: int) -> list[Message]:
    messages: list[Message] = []
    async with asyncio.timeout(20):
        while len(messages) < number:
            messages += await source.receive()
    return messages


def next_offsets(messages: Sequence[Message]) -> dict[Partition, int]:
    return {m.position.partition: m.position.offset + 1 for m in messages}


def test_receives_each_partition_in_order(make_source: Make, send: Callable[[int], None]) -> None:
    """Every post comes once, each partition's by rising offsets, in its first epoch."""

    async def run() -> list[Message]:
        source = make_source()
        await source.start(nothing_to_commit)
        try:
            return await receive(source, 100)
        finally:
            await source.close()

    send(100)
    messages = asyncio.run(run())
    assert sorted(int(m.value or b"") for m in messages) == list(range(100))
    for partition in {m.position.partition for m in messages}:
        offsets = [m.position.offset for m in messages if m.position.partition == partition]
        assert offsets == list(range(25))
    assert {m.epoch for m in messages} == {1}


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_reads_what_any_producer_compresses(codec: str, make_source: Make, kafka_bootstrap: str, topics: Any) -> None:
    """Every codec of Kafka, in batches that are really compressed: one that can't be read would end every worker."""

    async def run() -> list[Message]:
        source = make_source()
        await source.start(nothing_to_commit)
        try:
            return await receive(source, 50)
        finally:
            await source.close()

    producer = KafkaProducer(bootstrap_servers=kafka_bootstrap, compression_type=codec, linger_ms=50)
    values = [b"%d " % number + b"so happy about Phoenix ! " * 400 for number in range(50)]
    for value in values:
        producer.send(topics.posts, value, partition=0)
    producer.close(timeout=10)
    assert [message.value for message in asyncio.run(run())] == values


def test_a_header_whose_name_is_no_text_stops_nobody(make_source: Make, kafka_bootstrap: str, topics: Any) -> None:
    """One such record, which any producer may write, ended every worker of the group, and again at each restart."""

    class NoText(str):
        def encode(self, *_: Any) -> bytes:
            return b"\xff\xfe"

    async def run() -> list[Message]:
        source = make_source()
        await source.start(nothing_to_commit)
        try:
            return await receive(source, 3)
        finally:
            await source.close()

    producer = KafkaProducer(bootstrap_servers=kafka_bootstrap, linger_ms=50)
    for name in ("before", NoText("x"), "after"):
        producer.send(topics.posts, b"a post", headers=[(name, b"1")], partition=0)
    producer.close(timeout=10)
    assert [message.headers for message in asyncio.run(run())] == [
        (("before", b"1"),),
        (("\\xff\\xfe", b"1"),),
        (("after", b"1"),),
    ]


def test_posts_that_trickle_come_together(make_source: Make, send: Callable[[int], None]) -> None:
    """Those of a moment, and all of them; the first comes at once."""

    async def scenario() -> None:
        source = make_source(gather_seconds=0.3)
        await source.start(nothing_to_commit)
        send(1)
        assert len(await source.receive()) == 1
        begun, sizes = time.monotonic(), list[int]()

        async def trickle() -> None:
            for _ in range(30):
                await asyncio.to_thread(send, 1)
                await asyncio.sleep(0.02)

        sending = asyncio.create_task(trickle())
        while sum(sizes) < 30:
            sizes.append(len(await source.receive()))
        assert len(sizes) <= 2 + (time.monotonic() - begun) / 0.3
        await sending
        await source.close()

    asyncio.run(scenario())


def test_resumes_after_the_commit(make_source: Make, send: Callable[[int], None]) -> None:
    """A second start reads what came after the commit, and nothing from before it."""

    async def run() -> list[Message]:
        first = make_source()
        await first.start(nothing_to_commit)
        await first.commit(next_offsets(await receive(first, 40)))
        await first.close()
        send(8)
        second = make_source()
        await second.start(nothing_to_commit)
        try:
            return await receive(second, 8)
        finally:
            await second.close()

    send(40)
    assert {m.position.offset for m in asyncio.run(run())} == {10, 11}


def test_commits_after_the_topic_grew(
    make_source: Make,
    send: Callable[[int], None],
    topics: Any,
    kafka_bootstrap: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A join that the topic's growth began, and that outlasts its poll, still ends in a member that may commit."""
    monkeypatch.setattr("consumers.kafka_poller.POLL_MS", 1)

    async def run() -> list[Message]:
        first = make_source()
        await first.start(nothing_to_commit)
        messages = await receive(first, 40)
        await asyncio.to_thread(grow)
        # Otherwise noticed after five minutes.
        first._rebalance.consumer._cluster.request_update()
        messages += await receive(first, 1)
        await first.commit(next_offsets(messages))
        # A commit doesn't wait for a rebalance; one that was postponed is given time to follow.
        await asyncio.sleep(0.5)
        await first.close()
        send(8)
        second = make_source()
        await second.start(nothing_to_commit)
        try:
            return await receive(second, 8)
        finally:
            await second.close()

    def grow() -> None:
        admin = KafkaAdminClient(bootstrap_servers=kafka_bootstrap)
        admin.create_partitions({topics.posts: topics.num_partitions + 1})
        admin.close()
        producer = KafkaProducer(bootstrap_servers=kafka_bootstrap)
        producer.send(topics.posts, b"new", partition=topics.num_partitions).get(timeout=10)
        producer.close(timeout=5)

    send(40)
    assert {m.position.offset for m in asyncio.run(run())} == {10, 11}


def test_commits_what_the_revoke_listener_returns(make_source: Make, send: Callable[[int], None]) -> None:
    """Leaving the group asks for the finished offsets and commits them."""

    async def run() -> list[Message]:
        first = make_source()
        finished: dict[Partition, int] = {}

        async def give_up(partitions: frozenset[Partition]) -> Offsets:
            return {p: finished[p] for p in partitions}

        await first.start(give_up)
        finished.update(next_offsets(await receive(first, 40)))
        await first.close()
        send(4)
        second = make_source()
        await second.start(nothing_to_commit)
        try:
            return await receive(second, 4)
        finally:
            await second.close()

    send(40)
    assert {m.position.offset for m in asyncio.run(run())} == {10}


def test_two_members_share_the_partitions(make_source: Make, send: Callable[[int], None]) -> None:
    """A second member takes half; the first is asked, may commit while asked, and reads on."""

    async def run() -> tuple[set[Partition], list[Message], list[Message]]:
        first, second = make_source(), make_source()
        revoked: set[Partition] = set()
        gone = asyncio.Event()
        done: dict[Partition, int] = {}

        async def give_up(partitions: frozenset[Partition]) -> Offsets:
            await first.commit(done)  # must not wait for the poll that waits for us
            revoked.update(partitions)
            gone.set()
            return {p: done[p] for p in partitions}

        await first.start(give_up)
        done.update(next_offsets(await receive(first, 40)))
        await second.start(nothing_to_commit)
        async with asyncio.timeout(20):
            await gone.wait()
        asked = set(revoked)
        send(40)
        try:
            async with asyncio.TaskGroup() as tasks:
                mine = tasks.create_task(receive(first, 20))
                theirs = tasks.create_task(receive(second, 20))
            return asked, mine.result(), theirs.result()
        finally:
            await second.close()
            await first.close()

    send(40)
    revoked, mine, theirs = asyncio.run(run())
    assert len(revoked) == 2
    assert {m.position.partition for m in theirs} == revoked
    assert revoked.isdisjoint(m.position.partition for m in mine)
    assert {m.position.offset for m in mine + theirs} == set(range(10, 20))


def test_kept_partitions_are_read_on_while_another_member_takes_its_time_to_join(
    make_source: Make, send: Callable[[int], None], kafka_bootstrap: str, topics: Any
) -> None:
    """A member that doesn't answer the second round of a rebalance stops nobody's kept partitions: they did stop."""
    group = uuid4().hex
    other = KafkaConsumer(
        bootstrap_servers=kafka_bootstrap,
        group_id=group,
        partition_assignment_strategy=[CooperativeStickyAssignor()],
        enable_auto_commit=False,
        session_timeout_ms=20_000,
    )
    other.subscribe([topics.posts])

    async def run() -> tuple[set[Partition], list[Message]]:
        source = make_source(group_id=group)
        revoked: set[Partition] = set()

        async def give_up(partitions: frozenset[Partition]) -> Offsets:
            revoked.update(partitions)
            return {}

        await source.start(give_up)
        await receive(source, 40)
        async with asyncio.timeout(20):
            while not revoked:
                await asyncio.to_thread(other.poll, 20)
        # From here on the other one polls no more, and the join of the second round waits for it.
        await asyncio.sleep(0.5)
        asked = set(revoked)
        await asyncio.to_thread(send, 40)
        try:
            async with asyncio.timeout(5):
                return asked, await receive(source, 20)
        finally:
            await asyncio.to_thread(other.close, autocommit=False, timeout_ms=1000)
            await source.close()

    send(40)
    revoked, read = asyncio.run(run())
    assert len(revoked) == 2
    assert revoked.isdisjoint(m.position.partition for m in read)


def test_a_member_that_is_dropped_while_it_joins_is_told_of_its_loss(
    make_source: Make, send: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker answers the join itself with "unknown member", as to one that slept: the client told of no loss then,
    and what was read before would have been published under the new generation, a second time."""

    async def run() -> tuple[set[Partition], int, int]:
        source = make_source()
        lost: set[Partition] = set()

        async def give_up(partitions: frozenset[Partition]) -> Offsets:
            lost.update(partitions)
            return {}

        await source.start(give_up)
        before = await receive(source, 40)
        await source.commit(next_offsets(before))
        coordinator = source._rebalance.consumer._coordinator
        join = coordinator._do_join_and_sync_async

        async def join_as_a_stranger() -> Any:
            monkeypatch.setattr(coordinator, "_do_join_and_sync_async", join)
            coordinator._generation.member_id = "nobody-knows-me"
            return await join()

        monkeypatch.setattr(coordinator, "_do_join_and_sync_async", join_as_a_stranger)
        coordinator.request_rejoin()
        async with asyncio.timeout(40):
            while not lost:  # noqa: ASYNC110  # seen from outside
                await asyncio.sleep(0.05)
        await asyncio.to_thread(send, 4)
        try:
            async with asyncio.timeout(40):
                after = await source.receive()
            return lost, before[0].epoch, after[0].epoch
        finally:
            await source.close()

    send(40)
    lost, before, after = asyncio.run(run())
    assert len(lost) == 4
    assert after > before


def test_drops_the_commit_of_a_partition_that_is_not_ours(make_source: Make, topics: Any) -> None:
    """Stale offsets are no error and end nothing."""

    async def run() -> None:
        source = make_source()
        await source.start(nothing_to_commit)
        try:
            await asyncio.wait_for(source.commit({Partition(topics.posts, 99): 5}), 5)
        finally:
            await source.close()

    asyncio.run(run())


def test_pauses_while_the_buffer_is_full(make_source: Make, send: Callable[[int], None]) -> None:
    """Nobody receives: no more than the limit and one poll are held; then all posts come."""

    async def run() -> tuple[int, int]:
        source = make_source(max_poll_records=10, max_buffered_messages=20)
        await source.start(nothing_to_commit)
        try:
            async with asyncio.timeout(20):
                while source.num_buffered < 20:  # noqa: ASYNC110  # seen from outside, as an operator would
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.3)  # time in which an unpaused consumer would read all
            held = source.num_buffered
            return held, len(await receive(source, 400))
        finally:
            await source.close()

    send(400)
    held, received = asyncio.run(run())
    assert 20 <= held < 30
    assert received == 400


def test_stays_in_the_group_after_stop_intake(make_source: Make, send: Callable[[int], None]) -> None:
    """After the intake ends nothing more is handed out, and commits still succeed."""

    async def run() -> tuple[Sequence[Message], list[Message]]:
        source = make_source()
        await source.start(nothing_to_commit)
        first = await receive(source, 8)
        await source.stop_intake()
        send(8)
        nothing = await asyncio.wait_for(source.receive(), 5)
        await source.commit(next_offsets(first))
        await source.close()
        again = make_source()
        await again.start(nothing_to_commit)
        try:
            return nothing, await receive(again, 8)
        finally:
            await again.close()

    send(8)
    nothing, after = asyncio.run(run())
    assert not nothing
    assert {m.position.offset for m in after} == {2, 3}


def test_says_that_no_broker_answers() -> None:
    """The message names the address that was tried and the setting to change."""
    source = KafkaSource(KafkaConnection(bootstrap_servers=("127.0.0.1:9",)), KafkaSourceConfig(start_seconds=0.5))

    async def run() -> None:
        try:
            await source.start(nothing_to_commit)
        finally:
            await source.close()

    with pytest.raises(SourceUnavailable, match=r"127\.0\.0\.1:9 .*refused.*bootstrap_servers"):
        asyncio.run(run())


def test_says_that_the_topic_is_missing(make_source: Make) -> None:
    """The message names the topic and the setting to change."""

    async def run() -> None:
        source = make_source(topic="no-such-topic", start_seconds=0.5)
        try:
            await source.start(nothing_to_commit)
        finally:
            await source.close()

    with pytest.raises(SourceUnavailable, match=r"no-such-topic.*create it, or set"):
        asyncio.run(run())


def test_says_which_setting_the_brokers_refuse(make_source: Make) -> None:
    """A session that is too short for the brokers is told by the setting's name and by theirs."""

    async def run() -> None:
        source = make_source(session_timeout_ms=300)
        try:
            await source.start(nothing_to_commit)
            await asyncio.wait_for(source.receive(), 20)
        finally:
            await source.close()

    with pytest.raises(SourceUnavailable, match=r"set kafka\.session_timeout_seconds within .*group\.min\.session"):
        asyncio.run(run())


def test_says_that_the_broker_is_away_and_back(own_broker: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Readiness comes and goes with the broker, each told once; what is committed needs no broker, the rest waits."""

    async def until(wanted: bool, source: KafkaSource) -> None:
        async with asyncio.timeout(20):
            while (source.unready is None) is not wanted:  # noqa: ASYNC110  # seen from outside, as an operator would
                await asyncio.sleep(0.05)

    async def run() -> list[Message]:
        connection = KafkaConnection(bootstrap_servers=(own_broker.address,))
        source = KafkaSource(connection, KafkaSourceConfig(session_timeout_ms=6000, commit_seconds=1))
        await source.start(nothing_to_commit)
        await asyncio.to_thread(produce, b"before")
        await asyncio.to_thread(produce, b"while away")
        first, second = await receive(source, 2)
        offsets = next_offsets([first])
        await source.commit(offsets)
        await until(True, source)
        await asyncio.to_thread(own_broker.end)
        await until(False, source)
        assert source.unready == "no broker answers"
        await asyncio.wait_for(source.commit(offsets), 0.9)
        # Nobody confirms it now, and the work goes on.
        await source.commit(next_offsets([second]))
        await asyncio.to_thread(own_broker.restart)
        await until(True, source)
        async with asyncio.timeout(20):
            while await asyncio.to_thread(committed) != 2:  # noqa: ASYNC110  # seen from outside
                await asyncio.sleep(0.1)
        await asyncio.to_thread(produce, b"after")
        later = await receive(source, 1)
        await source.close()
        return later

    def committed() -> int | None:
        admin = KafkaAdminClient(bootstrap_servers=own_broker.address)
        try:
            found = admin.list_group_offsets({"nametag": [TopicPartition("posts", 0)]})
        except RetriableError:
            # A coordinator that has just started is still loading its groups.
            return None
        finally:
            admin.close()
        return next(iter(found["nametag"].values())).offset

    def produce(value: bytes) -> None:
        producer = KafkaProducer(bootstrap_servers=own_broker.address)
        producer.send("posts", value, partition=0).get(timeout=10)
        producer.close(timeout=5)

    with caplog.at_level(logging.INFO, "nametag.kafka"):
        assert [message.value for message in asyncio.run(run())] == [b"after"]
    told = [record.getMessage() for record in caplog.records if record.name == "nametag.kafka"]
    assert [event for event in told if event in ("kafka_away", "kafka_back")] == ["kafka_away", "kafka_back"]


def test_the_backlog_is_what_can_be_read(make_source: Make, kafka_bootstrap: str, topics: Any) -> None:
    """Neither a transaction's marker nor the posts of an open one count; nor do those that were read."""
    producer = KafkaProducer(bootstrap_servers=kafka_bootstrap, transactional_id=f"t-{uuid4().hex}")
    producer.init_transactions()

    def send(number: int) -> None:
        for i in range(number):
            producer.send(topics.posts, b"%d" % i, partition=i % topics.num_partitions)
        producer.flush(timeout=10)

    async def until_backlog(source: KafkaSource, number: int) -> None:
        async with asyncio.timeout(20):
            # The poller's thread tells nobody when it has looked.
            while len(source.backlog) < topics.num_partitions or sum(source.backlog.values()) != number:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def run() -> None:
        source = make_source()
        await source.start(nothing_to_commit)
        try:
            await until_backlog(source, 0)
            producer.begin_transaction()
            send(8)
            producer.commit_transaction()
            await until_backlog(source, 8)
            assert len(await receive(source, 8)) == 8
            await until_backlog(source, 0)
            producer.begin_transaction()
            send(8)
            # Longer than between two looks at the ends.
            await asyncio.sleep(6)
            assert sum(source.backlog.values()) == 0
            producer.abort_transaction()
        finally:
            await source.close()

    asyncio.run(run())
    producer.close(timeout=5)
