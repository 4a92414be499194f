"""Which of an archive's posts are wanted."""

from collections import deque
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from typing import Any, Literal

from consumers.deletes import Delete
from consumers.posts import Post, post_of
from consumers.tweets import original_of

Retweets = Literal["keep", "drop", "fold"]
Deletes = Literal["obey", "drop"]

MAX_REMEMBERED = 500_000
"""For so many posts it is known that they came already, when retweets are folded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PostChoice:
    """What a post must be like.

    `languages` are BCP 47 tags: `en` takes `en-GB` too. `since` is in the range, `until` isn't. `share` of the
    posts are taken, by the hash of their ids: the same each time, and a smaller share is part of a larger one.
    `deletes` are handed on whenever they were made, and whatever the post was like, which they don't tell; of a share
    of the posts those that are for one of them.
    """

    languages: frozenset[str] = frozenset()
    with_photo: bool = False
    retweets: Retweets = "keep"
    since: datetime | None = None
    until: datetime | None = None
    share: float = 1.0
    deletes: Deletes = "obey"

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"the sample's share is {self.share:g}; it must be above 0, and 1 at most")
        if self.since and self.until and self.since >= self.until:
            raise ValueError(
                f"the range ends at {self.until}, and begins at {self.since}; it must begin before it ends"
            )


class Chooser:
    """Applies a choice to one post after the other, and remembers those that retweets stand for."""

    def __init__(self, choice: PostChoice) -> None:
        self._choice = choice
        self._languages = frozenset(language.lower() for language in choice.languages)
        self._seen: set[str] = set()
        self._in_order: deque[str] = deque()

    def read(self, body: dict[str, Any]) -> tuple[Post, dict[str, Any] | None]:
        """The post in `body`; where a retweet is folded, the original and its body. Raises `BadMessage`."""
        if self._choice.retweets == "fold" and (original := original_of(body)) is not None:
            return post_of(original), original
        return post_of(body), None

    def why_not(self, post: Post, body: dict[str, Any]) -> str | None:
        """Why `post`, which was read from `body`, isn't wanted; None where it is."""
        choice = self._choice
        if choice.retweets == "drop" and original_of(body) is not None:
            return "retweet"
        if self._languages and not _is_in(post.lang, self._languages):
            return "language"
        if choice.with_photo and not (post.image_urls or post.image_url):
            return "no_photo"
        if (choice.since or choice.until) and not self._is_in_time(post.created_at):
            return "time"
        if choice.share < 1 and _fraction(post.id) >= choice.share:
            return "sample"
        if choice.retweets == "fold" and not self._is_first(post.id):
            return "folded"
        return None

    def obeys(self, delete: Delete) -> bool:
        """Whether a delete is handed on."""
        choice = self._choice
        return choice.deletes == "obey" and (choice.share >= 1 or _fraction(delete.id) < choice.share)

    def _is_in_time(self, moment: datetime | None) -> bool:
        if moment is None:
            return False
        since, until = self._choice.since, self._choice.until
        return (since is None or since <= moment) and (until is None or moment < until)

    def _is_first(self, post_id: str) -> bool:
        if post_id in self._seen:
            return False
        if len(self._in_order) == MAX_REMEMBERED:
            self._seen.discard(self._in_order.popleft())
        self._in_order.append(post_id)
        self._seen.add(post_id)
        return True


def _is_in(language: str | None, languages: frozenset[str]) -> bool:
    return language is not None and (
        (tag := language.lower().replace("_", "-")) in languages or tag.partition("-")[0] in languages
    )


def _fraction(post_id: str) -> float:
    digest = blake2b(post_id.encode(), digest_size=8).digest()
    # 53 bits, which a float holds exactly: the result is below 1.
    return (int.from_bytes(digest) >> 11) / 2**53
