"""Who reads what: the cooperative sticky assignor, made to tell the truth of what a member holds."""

from collections.abc import Callable, Set
from typing import Any

from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor


class TruthfulAssignor(CooperativeStickyAssignor):  # type: ignore[misc] # kafka-python has no types
    """Claims in a join what the consumer holds now.

    kafka-python 3.0.12 claims what the last round gave, also where that was lost since then. The leader
    then keeps those partitions from everybody until the claimant gives them up, which it doesn't, having
    none: nobody reads them until the next rebalance, whenever that is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held: Callable[[], Set[Any]] = frozenset
        """What the consumer holds; to be set when there is one."""

    def metadata(self, topics: Any) -> Any:
        """The subscription that goes into a join, with what is held."""
        self.member_assignment = sorted(self.held())
        return super().metadata(topics)
