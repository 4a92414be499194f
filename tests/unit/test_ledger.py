"""The ledger releases the contiguous prefix, whatever the order of completion."""

from hypothesis import given
from hypothesis import strategies as st

from consumers.source import Message, Partition, Position
from worker.ledger import OffsetLedger

PARTITION = Partition("posts", 0)


def message(offset: int, epoch: int = 0, partition: Partition = PARTITION) -> Message:
    return Message(position=Position(partition, offset), value=b"", epoch=epoch)


@given(st.sets(st.integers(0, 99), min_size=1), st.randoms())
def test_any_order_of_completion_leaves_in_order(offsets: set[int], random: object) -> None:
    """Each post leaves once, in the order of arrival, never past one that is open; gaps don't matter."""
    ledger: OffsetLedger[int] = OffsetLedger()
    arrived = sorted(offsets)
    for offset in arrived:
        ledger.open(message(offset))
    order = list(arrived)
    random.shuffle(order)  # type: ignore[attr-defined]
    left: list[int] = []
    done: set[int] = set()
    for offset in order:
        assert ledger.complete(message(offset), offset)
        done.add(offset)
        release = ledger.finished()
        assert ledger.finished() == release  # it stays until it is settled
        assert [outcome for _, outcome in ledger.settle(release)] == release.outcomes
        left += release.outcomes
        prefix = [offset for index, offset in enumerate(arrived) if done >= set(arrived[: index + 1])]
        assert left == prefix
        if release.outcomes:
            assert release.offsets == {PARTITION: prefix[-1] + 1}
    assert left == arrived
    assert len(ledger) == 0


def test_work_of_an_earlier_epoch_is_stale() -> None:
    """A post that finishes after its partition went away and came back is not published twice."""
    ledger: OffsetLedger[str] = OffsetLedger()
    ledger.open(message(5, epoch=1))
    assert [dropped.position.offset for dropped in ledger.forget([PARTITION])] == [5]
    ledger.open(message(5, epoch=2))
    assert not ledger.complete(message(5, epoch=1), "stale")
    assert ledger.finished().outcomes == []
    assert ledger.complete(message(5, epoch=2), "fresh")
    assert ledger.finished().outcomes == ["fresh"]


def test_partitions_do_not_wait_for_one_another() -> None:
    """An open post holds back its own partition only."""
    other = Partition("posts", 1)
    ledger: OffsetLedger[str] = OffsetLedger()
    ledger.open(message(0))
    ledger.open(message(0, partition=other))
    ledger.complete(message(0, partition=other), "b")
    assert ledger.finished([PARTITION]).outcomes == []
    assert ledger.finished().outcomes == ["b"]


def test_what_was_forgotten_meanwhile_is_not_settled() -> None:
    """A partition that goes away while its posts are published gives nothing back a second time."""
    ledger: OffsetLedger[str] = OffsetLedger()
    ledger.open(message(0, epoch=1))
    ledger.complete(message(0, epoch=1), "a")
    release = ledger.finished()
    assert len(ledger.forget()) == 1
    ledger.open(message(0, epoch=2))
    assert ledger.settle(release) == []
    assert len(ledger) == 1
