"""Which posts were deleted, as far as this worker was told lately."""

import math
from collections import OrderedDict

MAX_POSTS = 65_536


class DeletedPosts:
    """The last `MAX_POSTS` deletes. Messages are numbered as they arrive."""

    def __init__(self) -> None:
        self._numbers: OrderedDict[str, float] = OrderedDict()

    def note(self, post_id: str, number: int, *, is_final: bool) -> None:
        """That message `number` deletes the post. Unless it is final, a post that arrives later is a new one."""
        self._numbers[post_id] = math.inf if is_final else max(number, self._numbers.get(post_id, 0.0))
        self._numbers.move_to_end(post_id)
        if len(self._numbers) > MAX_POSTS:
            self._numbers.popitem(last=False)

    def covers(self, post_id: str, number: int) -> bool:
        """Whether the post that arrived as message `number` is deleted."""
        return self._numbers.get(post_id, -1) > number
