"""What a member claims in a join is what it holds."""

from kafka import TopicPartition
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.protocol.consumer.metadata import ConsumerProtocolAssignment

from consumers.kafka_assignor import TruthfulAssignor

GIVEN = ConsumerProtocolAssignment(1, [("posts", [0, 1])], b"")


def claimed(assignor: CooperativeStickyAssignor) -> list[tuple[str, list[int]]]:
    return [(each.topic, each.partitions) for each in assignor.metadata(["posts"]).owned_partitions]


def test_what_was_lost_is_not_claimed() -> None:
    """The client's own assignor claims the last assignment for ever, and two partitions stood still for it."""
    forgetful, truthful = CooperativeStickyAssignor(), TruthfulAssignor()
    held: set[TopicPartition] = set()
    truthful.held = lambda: held
    for assignor in (forgetful, truthful):
        assignor.on_assignment(GIVEN, 3)
    # Should the client tell the truth one day, ours is no longer needed.
    assert claimed(forgetful) == [("posts", [0, 1])]
    assert claimed(truthful) == []
    held.add(TopicPartition("posts", 1))
    assert claimed(truthful) == [("posts", [1])]
