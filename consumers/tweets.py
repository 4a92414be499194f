"""Tweet objects of Twitter's v1.1 API, of whatever year, read as posts."""

import re
from bisect import bisect_left
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

TWITTER_TIME = "%a %b %d %H:%M:%S %z %Y"

_CONTROL_KEYS = frozenset(
    {
        "delete",
        "disconnect",
        "friends",
        "limit",
        "scrub_geo",
        "status_undelete",
        "status_withheld",
        "user_delete",
        "user_protect",
        "user_suspend",
        "user_undelete",
        "user_withheld",
        "warning",
    }
)

_POST_KEYS = frozenset({"id", "id_str", "text", "full_text"})

# The three that Twitter writes. It escapes once, so one pass turns them back: `&amp;lt;` was `&lt;`.
_ESCAPES = {"&amp;": "&", "&lt;": "<", "&gt;": ">"}
_ESCAPE = re.compile("|".join(_ESCAPES))


@dataclass(frozen=True, slots=True)
class ShownText:
    """A text as its readers see it, and where each of its characters stands in the text as it was delivered.

    `unescaped` are the places in `text` of the characters that were escaped, in order. `shifts[k]` is how
    much further on what follows the first k of them stands as delivered.
    """

    text: str
    unescaped: tuple[int, ...] = ()
    shifts: tuple[int, ...] = (0,)

    @classmethod
    def of_tweet(cls, delivered: str, shown: tuple[int, int] | None = None) -> "ShownText":
        """A tweet's text with its `&amp;`, `&lt;` and `&gt;` turned back; any other `&` stays as it is.

        `shown` is the part that Twitter shows, in code points as delivered: without the mentions before a reply, and
        the link behind a text that is its own picture.
        """
        begin, end = shown or (0, len(delivered))
        pieces: list[str] = []
        unescaped: list[int] = []
        shifts = [begin]
        done = begin
        for match in _ESCAPE.finditer(delivered, begin, end):
            pieces += delivered[done : match.start()], _ESCAPES[match.group()]
            unescaped.append(match.start() - shifts[-1])
            shifts.append(shifts[-1] + len(match.group()) - 1)
            done = match.end()
        return cls("".join(pieces) + delivered[done:end], tuple(unescaped), tuple(shifts))

    def delivered(self, offset: int) -> int:
        """The offset in the text as delivered, in code points, of an offset between two characters of `text`."""
        return offset + self.shifts[bisect_left(self.unescaped, offset)]


def is_tweet(body: dict[str, Any]) -> bool:
    """Whether `body` is a v1.1 tweet rather than a post of our own schema."""
    return "id_str" in body or ("user" in body and "entities" in body)


def control_kind(body: dict[str, Any]) -> str | None:
    """The kind of a stream's control message (`delete`, `limit`, …), None for anything else."""
    # A time may stand beside it; a post has more, and may have a field of such a name.
    if len(body) > 3 or _POST_KEYS & body.keys():
        return None
    return next((key for key in body if key in _CONTROL_KEYS), None)


def original_of(tweet: dict[str, Any]) -> dict[str, Any] | None:
    """The tweet that `tweet` is a retweet of, None where it is none."""
    return _nested(tweet, "retweeted_status")


def post_fields(tweet: dict[str, Any]) -> dict[str, Any]:
    """The fields of a post, from a tweet.

    The text is the long one where there is one, as it was delivered: `ShownText.of_tweet` turns its
    escapes back for the tagger, and takes the part of it that is shown. Photos of a retweet may stand only in
    the original, and so may the end of its text.
    """
    text, shown = _own_text(tweet)
    if isinstance(text, str) and text.endswith("…") and (uncut := _uncut(tweet, text)):
        text, shown = uncut
    fields: dict[str, Any] = {
        "id": tweet.get("id_str") or tweet.get("id"),
        **_photos(tweet),
        "lang": tweet.get("lang"),
        "source": "twitter",
        "created_at": _time(tweet.get("created_at")),
    }
    if isinstance(text, str):
        fields["text"] = text
        fields["shown_range"] = shown
    return fields


def _own_text(tweet: dict[str, Any]) -> tuple[object, tuple[int, int] | None]:
    """The text that the tweet itself holds, the long one where there is one, and the part that is shown."""
    whole = _nested(tweet, "extended_tweet") or tweet
    text = whole.get("full_text") or whole.get("text") or tweet.get("text")
    # Of a text that was cut short and has no long one, the part that is shown ends amid what was cut.
    is_cut = whole is tweet and tweet.get("truncated") is True
    shown = None if is_cut or not isinstance(text, str) else _range(whole.get("display_text_range"), text)
    return text, shown


def _uncut(retweet: dict[str, Any], text: str) -> tuple[str, tuple[int, int] | None] | None:
    """The text of a retweet that Twitter cut short, in full, and the part that is shown; None where it has none.

    `RT @name: ` and the original's text: what it is cut to, before it is cut.
    """
    original = original_of(retweet)
    begin, colon, _ = text.partition(": ")
    if original is None or not colon or not begin.startswith("RT @"):
        return None
    # Only one step: Twitter's retweets are of originals, and a stranger's may be of each other without end.
    whole, shown = _own_text(original)
    if not isinstance(whole, str):
        return None
    prefix = begin + colon
    return prefix + whole, shown and (0, len(prefix) + shown[1])


def _range(found: object, text: str) -> tuple[int, int] | None:
    """The part of `text` that is shown; None for all of it, and for what is no part of it."""
    if not isinstance(found, list) or [type(each) for each in found] != [int, int]:
        return None
    begin, end = found
    return (begin, end) if 0 <= begin <= end <= len(text) else None


def _photos(tweet: dict[str, Any]) -> dict[str, list[str]]:
    original = original_of(tweet)
    for status in (tweet, original):
        if status is None:
            continue
        for holder in (_nested(status, "extended_tweet"), status):
            photos = _media(holder) if holder is not None else []
            if photos:
                return {"image_urls": [url for url, _ in photos], "media_ids": [own for _, own in photos]}
    return {}


def _media(holder: dict[str, Any]) -> list[tuple[str, str]]:
    """URL and id of each photo; an id of another type is none."""
    # `extended_entities` lists all photos, `entities` only the first.
    for name in ("extended_entities", "entities"):
        media = (_nested(holder, name) or {}).get("media")
        photos = [
            (item.get("media_url_https") or item.get("media_url"), item.get("id_str"))
            for item in (media if isinstance(media, list) else ())
            if isinstance(item, dict) and item.get("type") == "photo"
        ]
        found = [(url, own if isinstance(own, str) else "") for url, own in photos if isinstance(url, str)]
        if found := [(url, own) for url, own in found if url.strip()]:
            return found
    return []


def _nested(body: dict[str, Any], key: str) -> dict[str, Any] | None:
    value = body.get(key)
    return value if isinstance(value, dict) else None


def _time(value: object) -> datetime | object:
    if not isinstance(value, str):
        return value
    try:
        return _moment(value)
    except (ValueError, OverflowError):
        # Archives write it in other ways; the post reads those that it can.
        return value


@lru_cache(maxsize=256)
def _moment(text: str) -> datetime:
    # In a stream many tweets are of the same second, and to read one takes longer than all the rest of it.
    return datetime.strptime(text, TWITTER_TIME).astimezone(UTC)
