"""What was lost, doubled, out of order or foreign. Knows nothing of nametag but what its readers know.

The facts: each post that was sent, by its position, and what must come of it; each output that a reader
with `read_committed` sees, in the order of its partition.
"""

import contextlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

Position = tuple[int, int]
"""Partition and offset on the posts topic."""

QUIET_POLLS = 5
POLL_MS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A message that stands on the posts topic; with a `reason` it must become a dead letter.

    One that `deletes` must become a tombstone under the id of the post, which needs no output then.
    """

    position: Position
    id: str
    text: str | None = None
    url: str | None = None
    reason: str | None = None
    value: bytes | None = None
    deletes: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """An entity event, a tombstone, or a dead letter with its `reason`, as it stands on a topic."""

    topic: str
    partition: int
    position: Position
    id: str | None = None
    text: str | None = None
    url: str | None = None
    digest: str | None = None
    reason: str | None = None
    value: bytes | None = None
    is_tombstone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Findings, each as a sentence; `doubled` counts every output after a post's first."""

    lost: tuple[str, ...] = ()
    doubled: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    disordered: tuple[str, ...] = ()
    undead: tuple[str, ...] = ()

    def faults(self, delivery: str) -> dict[str, tuple[str, ...]]:
        """What breaks the promise of `delivery`."""
        found = {"lost": self.lost, "foreign": self.foreign, "out of order": self.disordered, "undead": self.undead}
        if delivery == "exactly_once":
            found["doubled"] = self.doubled
        return {name: sentences for name, sentences in found.items() if sentences}


def judge(sent: Iterable[Sent], outputs: Sequence[Output]) -> Verdict:
    """Compare what was sent with what came out."""
    wanted = {message.position: message for message in sent}
    counts = Counter(output.position for output in outputs)
    return Verdict(
        lost=tuple(f"{_told(wanted[at])} has no output" for at in needed(wanted.values()) if not counts[at]),
        doubled=tuple(
            f"{_told(wanted[at])} has {count} outputs"
            for at, count in counts.items()
            if at in wanted
            for _ in range(count - 1)
        ),
        foreign=(*_foreign(wanted, outputs), *_mixed_pictures(outputs)),
        disordered=tuple(_disordered(outputs)),
        undead=tuple(_undead(outputs, _deleted(wanted.values()))),
    )


def needed(sent: Iterable[Sent]) -> list[Position]:
    """The positions that must have an output: of deletes, and of posts that nobody deleted."""
    sent = list(sent)
    deleted = _deleted(sent)
    return [message.position for message in sent if message.deletes or message.id not in deleted]


def _deleted(sent: Iterable[Sent]) -> set[str]:
    return {message.id for message in sent if message.deletes}


def _told(message: Sent) -> str:
    return f"post {message.id} at [{message.position[0]}]@{message.position[1]}"


def _foreign(wanted: dict[Position, Sent], outputs: Sequence[Output]) -> Iterable[str]:
    """Outputs that nobody asked for, or that are another post's."""
    for output in outputs:
        at = f"{output.topic}[{output.partition}] has an output for [{output.position[0]}]@{output.position[1]}"
        message = wanted.get(output.position)
        if message is None:
            yield f"{at}, which was not sent"
        elif output.is_tombstone != message.deletes:
            yield f"{at}, which is {'a' if output.is_tombstone else 'no'} tombstone, unlike {_told(message)}"
        elif output.reason != message.reason:
            yield f"{at}, whose reason is {output.reason}, not {message.reason}"
        elif message.reason is not None and output.value != message.value:
            yield f"{at}, whose bytes are not those of {_told(message)}"
        elif message.reason is None and (output.id, output.text, output.url) != (message.id, message.text, message.url):
            yield f"{at}, whose id, text or picture is not that of {_told(message)}"


def _mixed_pictures(outputs: Sequence[Output]) -> Iterable[str]:
    """A URL shows one picture here, so it has one digest; and no two URLs share a picture."""
    digests: dict[str, str] = {}
    for output in outputs:
        if output.url and output.digest and digests.setdefault(output.url, output.digest) != output.digest:
            yield f"the picture {output.url} was seen as {output.digest} and as {digests[output.url]}"
    for digest, count in Counter(digests.values()).items():
        if count > 1:
            yield f"{count} different pictures were seen as {digest}"


def _undead(outputs: Sequence[Output], deleted: set[str]) -> Iterable[str]:
    """The last that is heard of a deleted post must be its tombstone."""
    last = {output.id: output for output in outputs if output.id in deleted}
    for post_id, output in last.items():
        if not output.is_tombstone:
            yield f"post {post_id} has an event after its tombstone"


def _disordered(outputs: Sequence[Output]) -> Iterable[str]:
    """In each partition out, the first outputs of each partition in must rise; a repeat is only doubled."""
    last: dict[tuple[str, int, int], int] = {}
    seen: set[Position] = set()
    for output in outputs:
        if output.position in seen:
            continue
        seen.add(output.position)
        number, offset = output.position
        place = (output.topic, output.partition, number)
        if offset < last.get(place, -1):
            yield f"{output.topic}[{output.partition}] has [{number}]@{offset} after @{last[place]}"
        last[place] = max(offset, last.get(place, -1))


def entity(record: Any) -> Output:
    """The output that a record of the entities topic is."""
    if record.value is None:
        headers = dict(record.headers)
        return Output(
            topic=record.topic,
            partition=record.partition,
            position=(int(headers["nametag-partition"]), int(headers["nametag-offset"])),
            id=record.key.decode(),
            is_tombstone=True,
        )
    body = json.loads(record.value)
    image = body["image"]
    return Output(
        topic=record.topic,
        partition=record.partition,
        position=(body["position"]["partition"], body["position"]["offset"]),
        id=body["id"],
        text=body.get("text"),
        url=image.get("url"),
        digest=image.get("digest"),
    )


def dead_letter(record: Any) -> Output:
    """The output that a dead letter is."""
    headers = dict(record.headers)
    return Output(
        topic=record.topic,
        partition=record.partition,
        position=(int(headers["nametag-partition"]), int(headers["nametag-offset"])),
        reason=headers["nametag-reason"].decode(),
        value=record.value,
    )


@dataclass(slots=True, kw_only=True)
class OutputReader:
    """Reads both topics as their users do, with `read_committed`, through all trouble of the broker."""

    bootstrap: str
    entities: str
    dead_letters: str
    num_partitions: int
    outputs: list[Output] = field(default_factory=list)
    seen: set[Position] = field(default_factory=set)
    longest_silence: float = 0.0
    _came_at: float | None = None
    _consumer: Any = None
    _next: dict[TopicPartition, int] = field(default_factory=dict)

    def poll(self) -> int:
        """Take in what is there; gives how many outputs came."""
        try:
            if self._consumer is None:
                self._consumer = self._connect()
            polled = self._consumer.poll(timeout_ms=POLL_MS)
        except KafkaError:
            self.close()
            time.sleep(POLL_MS / 1000)
            return 0
        records = [record for batch in polled.values() for record in batch]
        for record in records:
            self._next[TopicPartition(record.topic, record.partition)] = record.offset + 1
            output = entity(record) if record.topic == self.entities else dead_letter(record)
            self.outputs.append(output)
            self.seen.add(output.position)
        self._listen(bool(records))
        return len(records)

    def read_to_end(self, seconds: float) -> bool:
        """Read until no transaction is open and nothing is left; False at the deadline."""
        deadline = time.monotonic() + seconds
        while not self._is_settled():
            if time.monotonic() > deadline:
                return False
            self.poll()
        num_quiet = 0
        while num_quiet < QUIET_POLLS and time.monotonic() < deadline:
            num_quiet = 0 if self.poll() else num_quiet + 1
        return num_quiet >= QUIET_POLLS

    def close(self) -> None:
        """Let go of the connections; the next poll makes new ones."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            with contextlib.suppress(KafkaError):
                consumer.close()

    def _listen(self, came: bool) -> None:
        if not came:
            return
        now = time.monotonic()
        if self._came_at is not None:
            self.longest_silence = max(self.longest_silence, now - self._came_at)
        self._came_at = now

    def _is_settled(self) -> bool:
        """Whether all that was written is visible, or never will be."""
        partitions = self._partitions()
        try:
            visible = self._consumer.end_offsets(partitions) if self._consumer else None
            plain = KafkaConsumer(bootstrap_servers=self.bootstrap)
            try:
                return bool(visible == plain.end_offsets(partitions))
            finally:
                plain.close()
        except KafkaError:
            return False

    def _partitions(self) -> list[TopicPartition]:
        return [
            TopicPartition(topic, number)
            for topic in (self.entities, self.dead_letters)
            for number in range(self.num_partitions)
        ]

    def _connect(self) -> Any:
        consumer = KafkaConsumer(
            bootstrap_servers=self.bootstrap,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            reconnect_backoff_max_ms=500,
        )
        consumer.assign(self._partitions())
        for partition, offset in self._next.items():
            consumer.seek(partition, offset)
        return consumer


def uncommitted(bootstrap: str, group: str, topic: str, ends: dict[int, int], seconds: float) -> list[str]:
    """For each partition whose committed offset isn't `ends`, a sentence."""
    deadline = time.monotonic() + seconds
    while True:
        told = _uncommitted(bootstrap, group, topic, ends)
        if not told or time.monotonic() > deadline:
            return told
        time.sleep(0.5)


def _uncommitted(bootstrap: str, group: str, topic: str, ends: dict[int, int]) -> list[str]:
    try:
        consumer = KafkaConsumer(bootstrap_servers=bootstrap, group_id=group, enable_auto_commit=False)
        try:
            at = {number: consumer.committed(TopicPartition(topic, number), timeout_ms=5000) for number in ends}
        finally:
            consumer.close()
    except KafkaError as error:
        return [f"the committed offsets can't be read: {error!r}"]
    return [f"[{number}] is committed to {at[number]}, not {end}" for number, end in ends.items() if at[number] != end]
