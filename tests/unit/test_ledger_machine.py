"""The ledger against a model of a broker: whatever comes when, each message is visible once and in order."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from consumers.source import Message, Partition, Position
from worker.ledger import OffsetLedger, Release

PARTITIONS = tuple(Partition("posts", number) for number in range(3))
GAPPED_LOG = tuple(offset for offset in range(40) if offset % 7 not in (3, 4))
"""Offsets of a topic with transaction markers and compaction in it."""

partitions = st.sampled_from(PARTITIONS)


class Broker(RuleBasedStateMachine):
    """Assignments, reads, completions, publications and losses, in any order that hypothesis thinks of.

    A publication is atomic, as in a transaction: its outcomes become visible as its offsets are committed, or
    neither does. The broker refuses one whose partition has been in other hands since it was chosen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ledger: OffsetLedger[int] = OffsetLedger()
        self.epoch = dict.fromkeys(PARTITIONS, 0)
        self.committed = dict.fromkeys(PARTITIONS, 0)
        self.position = dict.fromkeys(PARTITIONS, 0)
        self.visible: dict[Partition, list[int]] = {partition: [] for partition in PARTITIONS}
        self.owned: set[Partition] = set()
        self.under_way: list[Message] = []
        self.chosen: tuple[Release[int], dict[Partition, int]] | None = None

    @initialize()
    def begin(self) -> None:
        for partition in PARTITIONS:
            self.assign(partition)

    @rule(partition=partitions)
    def assign(self, partition: Partition) -> None:
        """A partition comes, and is read from the last commit."""
        if partition not in self.owned:
            self.owned.add(partition)
            self.epoch[partition] += 1
            self.position[partition] = self.committed[partition]

    @rule(partition=partitions)
    def revoke(self, partition: Partition) -> None:
        """A partition goes, perhaps amid a publication; another worker may have it for a while."""
        if partition in self.owned:
            self.owned.remove(partition)
            self.ledger.forget([partition])

    @rule()
    def read_again(self) -> None:
        """Nobody knows what became of a publication: all is forgotten, and read from the last commit."""
        self.ledger.forget()
        for partition in self.owned:
            self.epoch[partition] += 1
            self.position[partition] = self.committed[partition]

    @rule(partition=partitions, finished=st.lists(st.booleans(), min_size=1, max_size=5))
    def read(self, partition: Partition, finished: list[bool]) -> None:
        """The next messages arrive, and some of them are finished before anything else happens."""
        if partition not in self.owned:
            return
        waiting = [offset for offset in GAPPED_LOG if offset >= self.position[partition]]
        for offset, is_finished in zip(waiting, finished, strict=False):
            message = Message(position=Position(partition, offset), value=b"", epoch=self.epoch[partition])
            self.ledger.open(message)
            if is_finished:
                assert self.ledger.complete(message, offset)
            else:
                self.under_way.append(message)
            self.position[partition] = offset + 1

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def complete(self, data: st.DataObject) -> None:
        """Any message is finished, be it of an epoch that is long over."""
        message = self.under_way.pop(data.draw(st.integers(0, len(self.under_way) - 1)))
        partition = message.position.partition
        is_current = partition in self.owned and message.epoch == self.epoch[partition]
        assert self.ledger.complete(message, message.position.offset) == is_current

    @precondition(lambda self: self.chosen is None)
    @rule()
    def choose(self) -> None:
        """A publication begins: what is finished is chosen, and stays in the ledger."""
        self.chosen = self.ledger.finished(), dict(self.epoch)

    @precondition(lambda self: self.chosen is None)
    @rule(is_committed=st.booleans())
    def choose_and_publish(self, is_committed: bool) -> None:
        """A publication with nothing in between."""
        self.choose()
        self.publish(is_committed)

    @precondition(lambda self: self.chosen is not None)
    @rule(is_committed=st.booleans())
    def publish(self, is_committed: bool) -> None:
        """The broker's answer: visible and committed, or fenced, or aborted."""
        assert self.chosen is not None
        (release, epochs), self.chosen = self.chosen, None
        is_fenced = any(p not in self.owned or epochs[p] != self.epoch[p] for p in release.offsets)
        if is_fenced or not is_committed:
            return
        for message, outcome in zip(release.messages, release.outcomes, strict=True):
            self.visible[message.position.partition].append(outcome)
        self.committed |= release.offsets
        assert len(self.ledger.settle(release)) == len(release.outcomes)

    @invariant()
    def everything_up_to_the_commit_is_visible_once_and_in_order(self) -> None:
        for partition in PARTITIONS:
            assert self.visible[partition] == [n for n in GAPPED_LOG if n < self.committed[partition]]

    def teardown(self) -> None:
        """Left alone, it ends with every message visible."""
        self.chosen = None
        for partition in PARTITIONS:
            self.assign(partition)
            self.read(partition, [False] * len(GAPPED_LOG))
        for message in self.under_way:
            self.ledger.complete(message, message.position.offset)
        self.choose()
        self.publish(is_committed=True)
        assert all(self.visible[partition] == list(GAPPED_LOG) for partition in PARTITIONS)
        assert len(self.ledger) == 0


TestLedger = Broker.TestCase
TestLedger.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
