"""Which posts were deleted, as far as this worker was told lately."""

from collections import OrderedDict
from typing import NamedTuple

from consumers.source import Message

MAX_POSTS = 65_536


class Arrival(NamedTuple):
    """A message, the `number`th that came. One that is read again has another number, and the same position."""

    message: Message
    number: int

    def is_before(self, other: "Arrival") -> bool:
        """Whether it stands before `other`, or, in another partition, came before it."""
        position, others = self.message.position, other.message.position
        if position.partition == others.partition:
            return position.offset < others.offset
        return self.number < other.number


class DeletedPosts:
    """The last `MAX_POSTS` deletes."""

    def __init__(self) -> None:
        self._deletes: OrderedDict[str, Arrival | None] = OrderedDict()

    def note(self, post_id: str, delete: Arrival, *, is_final: bool) -> None:
        """That the post is deleted. Unless that is final, a post behind it is a new one."""
        was_final = self._deletes.get(post_id, delete) is None
        # Without its bytes, which nobody needs any more.
        bare = Arrival(Message(position=delete.message.position, value=None), delete.number)
        self._deletes[post_id] = None if is_final or was_final else bare
        self._deletes.move_to_end(post_id)
        if len(self._deletes) > MAX_POSTS:
            self._deletes.popitem(last=False)

    def covers(self, post_id: str, post: Arrival) -> bool:
        """Whether the post that came so is deleted."""
        if post_id not in self._deletes:
            return False
        delete = self._deletes[post_id]
        return delete is None or post.is_before(delete)
