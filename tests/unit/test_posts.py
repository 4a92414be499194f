"""What is read as a post, and what is refused."""

import json
import re
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.errors import BadMessage, Reason
from consumers.events import Scissors
from consumers.messages import json_schemas
from consumers.posts import Post, PostImage, read_message
from consumers.source import Message, Partition, Position

POST_SCHEMA = jsonschema.Draft202012Validator(json_schemas()["post.schema.json"])
POSITION = Position(Partition("posts", 3), 17)


def read(value: bytes | None, max_bytes: int = 10_000) -> Post:
    found = read_message(Message(position=POSITION, value=value), max_bytes=max_bytes)
    assert isinstance(found, Post)
    return found


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, Reason.EMPTY),
        (b" " * 10_001, Reason.TOO_LARGE),
        (b"", Reason.NOT_JSON),
        (b"{", Reason.NOT_JSON),
        (b"\xff\xfe", Reason.NOT_JSON),
        (b'{"id": 1, "text": NaN}', Reason.NOT_JSON),
        (b'{"id": 1, "text": "\\ud83d", "n": NaN}', Reason.NOT_JSON),
        (b"[" * 9_000, Reason.NOT_JSON),
        (b"[" * 9_000 + b'"\\ud83d"', Reason.NOT_JSON),
        (b"[1]", Reason.NOT_A_POST),
        (b"3", Reason.NOT_A_POST),
        (b'{"text": "no id"}', Reason.NOT_A_POST),
        (b'{"id": "", "text": "empty id"}', Reason.NOT_A_POST),
        (b'{"id": true, "text": "a truth as id"}', Reason.NOT_A_POST),
        (b'{"id": "\\ud83d", "text": "half an emoji as id"}', Reason.NOT_A_POST),
        (b'{"id": 1, "text": 5}', Reason.NOT_A_POST),
        (b'{"id": 1, "text": "a", "image_url": 5}', Reason.NOT_A_POST),
        (b'{"id": 1, "text": "a", "image_urls": "http://h/1"}', Reason.NOT_A_POST),
        (b'{"id": 1, "text": "a", "image_urls": [{}]}', Reason.NOT_A_POST),
        (b'{"id_str": "", "text": "a tweet without an id"}', Reason.NOT_A_POST),
        (b'{"delete": {"status": {}}}', Reason.NOT_A_POST),
        (b'{"id": 1}', Reason.NO_TEXT),
        (b'{"id": 1, "text": null}', Reason.NO_TEXT),
    ],
)
def test_a_bad_message_has_its_reason(value: bytes | None, reason: Reason) -> None:
    """Each kind of bad message is refused with its own reason and a sentence."""
    with pytest.raises(BadMessage) as caught:
        read(value)
    assert caught.value.reason is reason
    assert str(caught.value)


def test_the_sentence_does_not_quote_the_post() -> None:
    """Captions don't leak through error messages into headers and logs."""
    with pytest.raises(BadMessage) as caught:
        read(b'{"id": 1, "text": {"secret-caption": 1}}')
    assert str(caught.value) == "the post's text must be a string"


@given(
    st.fixed_dictionaries(
        {"text": st.just("secret") | st.just(["secret"])},
        optional={
            name: st.sampled_from(["secret", ["secret"], {"secret": "secret"}, 5, 0.5, True, "", [5], "\ud83d", None])
            for name in (*sorted(set(Post.model_fields) - {"text"}), "id_str", "user", "entities", "extended_tweet")
        },
    )
)
def test_any_field_may_be_wrong(body: dict[str, object]) -> None:
    """Whatever a field holds: a post, or a sentence that neither quotes the message nor speaks Python."""
    try:
        read(json.dumps(body).encode())
    except BadMessage as refused:
        told = str(refused)
        assert told.startswith("the post")
        assert not re.search(r"secret|tuple|dict|NoneType|\bstr\b|\bint\b|float|Input|[Vv]alue", told)


@pytest.mark.parametrize(
    ("pictures", "found"),
    [
        ({"image_url": ""}, None),
        ({"image_url": " "}, None),
        ({"image_url": None}, None),
        ({"image_urls": None}, None),
        ({"image_urls": []}, None),
        ({"image_urls": [""]}, None),
        ({"image_urls": [None, "", "http://h/2"]}, "http://h/2"),
        ({"image_url": "http://h/1", "image_urls": [""]}, "http://h/1"),
    ],
)
def test_an_empty_url_is_no_picture(pictures: dict[str, object], found: str | None) -> None:
    """A producer that writes an empty field means no picture; its post is tagged."""
    post = read(json.dumps({"id": 1, "text": "a", **pictures}).encode())
    expected = None if found is None else PostImage(str(found))
    assert post.choose_image("first") == post.choose_image("random") == expected


@pytest.mark.parametrize(
    "created_at",
    ["yesterday", "", "²", "0000-00-00", "2021-13-01T00:00:00Z", True, 1e300, -1e300, 10**18, [], {},
     "Mon Jan 01 00:00:00 +2359 0001"],
)  # fmt: skip
@pytest.mark.parametrize("shape", [{"id": 1}, {"id_str": "1"}])
def test_an_unreadable_time_costs_the_time(created_at: object, shape: dict[str, object]) -> None:
    """A post and a tweet whose created_at means nothing are tagged, without it."""
    post = read(json.dumps({**shape, "text": "a", "created_at": created_at}).encode())
    assert (post.id, post.created_at) == ("1", None)


def test_white_space_is_a_caption() -> None:
    """A caption of white space, and an empty one, are posts."""
    assert read(b'{"id": 7, "text": " \\n "}').text == " \n "
    assert read(b'{"id": 7, "text": ""}').id == "7"


@pytest.mark.parametrize(
    "created_at",
    ['"2021-01-01T17:29:00Z"', '"2021-01-01T17:29:00"', "1609522140", '"1609522140"',
     '"1609522140.0"', "1609522140000", '"2021-01-01t17:29:00z"',
     '"2021-01-01T18:29:00+01:00"'],
)  # fmt: skip
def test_times_are_understood(created_at: str) -> None:
    """RFC 3339 with and without an offset, and Unix time, name the same moment."""
    post = read(b'{"id": 1, "text": "a", "created_at": %s}' % created_at.encode())
    assert post.created_at == datetime(2021, 1, 1, 17, 29, tzinfo=UTC)


def test_the_random_image_is_the_same_in_a_replay() -> None:
    """A choice among several images depends on the post's id alone."""
    urls = tuple(f"http://h/{n}" for n in range(8))
    posts = [Post(id=str(n), text="", image_urls=urls) for n in range(50)]
    chosen = [post.choose_image("random") for post in posts]
    assert chosen == [post.choose_image("random") for post in posts]
    assert len(set(chosen)) > 4
    assert {post.choose_image("first") for post in posts} == {PostImage("http://h/0")}


def test_a_tweet_is_taken_as_it_is() -> None:
    """A v1.1 tweet gives the long text as delivered, its photo and its time in UTC."""
    tweet = {
        "id_str": "99",
        "id": 99,
        "text": "short…",
        "created_at": "Fri Jan 01 17:29:00 +0000 2021",
        "lang": "en",
        "user": {},
        "entities": {},
        "extended_tweet": {
            "full_text": "R&amp;D in Paris",
            "extended_entities": {
                "media": [
                    {"type": "video", "media_url_https": "https://v"},
                    {"type": "photo", "id_str": "77", "media_url_https": "https://p/1.jpg"},
                    {"type": "photo", "media_url_https": "https://p/2.jpg"},
                ]
            },
        },
    }
    post = read(json.dumps(tweet).encode())
    assert (post.id, post.text, post.source) == ("99", "R&amp;D in Paris", "twitter")
    assert post.shown.text == "R&D in Paris"
    assert post.image_urls == ("https://p/1.jpg", "https://p/2.jpg")
    assert post.choose_image("first") == PostImage("https://p/1.jpg", "77")
    assert post.media_id(1) is None
    assert post.created_at == datetime(2021, 1, 1, 17, 29, tzinfo=UTC)


def test_a_retweets_photo_may_stand_in_the_original() -> None:
    """A retweet without media of its own shows the original's photo."""
    media = {"media": [{"type": "photo", "media_url": "http://p/1.jpg"}]}
    tweet = {"id_str": "1", "text": "RT", "retweeted_status": {"id_str": "0", "entities": media}}
    assert read(json.dumps(tweet).encode()).image_urls == ("http://p/1.jpg",)


PIECES = st.sampled_from(
    ["&amp;", "&lt;", "&gt;", "&", ";", "amp;", "&AMP;", "&quot;", "&#38;", "😀", "\ud83d", "a", " "]
)


@given(st.lists(st.one_of(PIECES, st.text(st.characters(), max_size=3))), st.data())
def test_a_tweets_offsets_are_those_of_its_delivered_text(pieces: list[str], data: st.DataObject) -> None:
    """Whatever is cut from what the tagger reads is, escaped again, what stands there in the delivered text."""
    post = read(json.dumps({"id_str": "1", "text": "".join(pieces)}).encode(), 100_000)
    shown = post.shown
    start = data.draw(st.integers(0, len(shown.text)))
    end = data.draw(st.integers(start, len(shown.text)))
    entity = Scissors(post.text).cut(type="PER", start=shown.delivered(start), end=shown.delivered(end), confidence=1.0)
    assert re.sub("&(amp|lt|gt);", _turn_back, entity.text) == shown.text[start:end]
    assert re.sub("&(amp|lt|gt);", _turn_back, post.text[: entity.start]) == shown.text[:start]
    units = post.text.encode("utf-16-le", "surrogatepass")[2 * entity.start_utf16 : 2 * entity.end_utf16]
    assert units.decode("utf-16-le", "surrogatepass") == entity.text
    assert shown.delivered(len(shown.text)) == len(post.text)


@given(st.lists(PIECES), st.data())
def test_the_part_that_is_shown_stands_where_it_was_delivered(pieces: list[str], data: st.DataObject) -> None:
    """Offsets lead from the shown part to the same characters, wherever it is cut; outside of it nothing is read."""
    text = "".join(pieces)
    begin = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(begin, len(text)))
    post = read(json.dumps({"id_str": "1", "text": text, "display_text_range": [begin, end]}).encode(), 100_000)
    shown = post.shown
    assert shown.text == re.sub("&(amp|lt|gt);", _turn_back, text[begin:end])
    for place in range(len(shown.text)):
        there = text[shown.delivered(place) : shown.delivered(place + 1)]
        assert re.sub("&(amp|lt|gt);", _turn_back, there) == shown.text[place]
    assert (shown.delivered(0), shown.delivered(len(shown.text))) == (begin, end)


@pytest.mark.parametrize("wrong", [[0], [3, 1], [-1, 2], [0, 6], [0.0, 1.0], [True, 3], "01", None, {}])
def test_a_range_that_is_no_part_of_the_text_counts_for_nothing(wrong: object) -> None:
    """All of the text is read then."""
    assert (
        read(json.dumps({"id_str": "1", "text": "Paris", "display_text_range": wrong}).encode()).shown.text == "Paris"
    )


def test_the_range_belongs_to_the_text_that_is_read() -> None:
    """That of the long text counts; that of a text which was cut short doesn't."""
    long = {"full_text": "@a in Paris https://t.co/1", "display_text_range": [3, 11]}
    tweet = {"id_str": "1", "text": "@a in Par…", "display_text_range": [0, 1], "truncated": True}
    assert read(json.dumps({**tweet, "extended_tweet": long}).encode()).shown.text == "in Paris"
    assert read(json.dumps(tweet).encode()).shown.text == "@a in Par…"
    assert read(json.dumps({**tweet, "truncated": False}).encode()).shown.text == "@"


@pytest.mark.parametrize("long", [True, False])
def test_a_retweet_that_was_cut_short_has_its_whole_text(long: bool) -> None:
    """Twitter cuts `RT @name: …` to its old length; the original has the end, and what of it is shown."""
    whole = "so happy about R&amp;D in the city of Paris https://t.co/1"
    end = whole.index(" https")
    body = {"full_text": whole, "display_text_range": [0, end]}
    original = {"id_str": "0", "text": "so happy…", "truncated": True, "extended_tweet": body} if long else {
        "id_str": "0", "text": "so happy about R&amp;D"
    }  # fmt: skip
    tweet = {"id_str": "1", "text": "RT @ann: so happy about R&amp;…", "retweeted_status": original}
    post = read(json.dumps(tweet).encode())
    assert post.shown.text == "RT @ann: so happy about R&D" + (" in the city of Paris" if long else "")
    assert post.text == "RT @ann: " + (whole if long else "so happy about R&amp;D")
    for other in ({"text": "RT of ann…"}, {"text": "RT @ann: all of it"}, {"retweeted_status": {"id_str": "0"}}):
        assert read(json.dumps(tweet | other).encode()).text == (tweet | other)["text"]


def _turn_back(match: re.Match[str]) -> str:
    return {"amp": "&", "lt": "<", "gt": ">"}[match[1]]


@given(st.lists(st.one_of(PIECES, st.text(max_size=3))).map("".join))
def test_a_plain_post_is_read_as_it_stands(text: str) -> None:
    """Only tweets are escaped: the tagger reads a plain post character for character."""
    post = read(json.dumps({"id": 1, "text": text}).encode(), 100_000)
    assert post.shown.text == post.text
    assert [post.shown.delivered(offset) for offset in range(len(post.text) + 1)] == [*range(len(post.text) + 1)]


@given(
    st.fixed_dictionaries(
        {
            "id": st.text(max_size=2) | st.integers(-(2**70), 2**70) | st.sampled_from([True, 0.5, None, "i" * 257]),
            "text": st.text(max_size=3) | st.integers(0, 1),
        },
        optional={
            "image_url": st.sampled_from(["", " ", "http://h/1", None, 5]),
            "image_urls": st.sampled_from([None, [], [""], [None], ["http://h/1", ""], "http://h/1", [5]]),
            "created_at": st.sampled_from(["2021-01-01T00:00:00Z", "2021-01-01", "", 1609522140, 0.5, None]),
            "source": st.sampled_from(["twitter", "", None, 5]),
            "lang": st.sampled_from(["en", None, 5]),
            "more": st.none(),
        },
    )
)
def test_the_posts_schema_says_what_is_taken(body: dict[str, object]) -> None:
    """A post is taken exactly where its schema allows it."""
    allowed = POST_SCHEMA.is_valid(body)
    try:
        read(json.dumps(body).encode())
    except BadMessage:
        assert not allowed
    else:
        assert allowed


@pytest.mark.parametrize(
    "tweet",
    [
        {"id_str": "p", "text": "Paris", "entities": {"media": 5}},
        {"id_str": "p", "text": "Paris", "extended_entities": {"media": {"a": 1}}},
        {"id_str": "p", "text": "Paris", "created_at": "Fri Dec 31 23:59:59 -2359 9999"},
        {"id_str": "p", "text": "Paris", "created_at": "Mon Jan 01 00:00:00 +2359 0001"},
        {"id_str": "p", "text": f"&#{'9' * 4400}; Paris"},
    ],
)
def test_a_tweet_with_odd_fields_is_a_post(tweet: dict[str, Any]) -> None:
    """Fields that a tweet shouldn't have cost the field, not the post; each of these once stopped a partition."""
    assert read(json.dumps(tweet).encode()).id == "p"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_TWEET_KEYS = ("id_str", "id", "text", "full_text", "user", "entities", "extended_entities", "extended_tweet",
               "retweeted_status", "media", "created_at", "lang", "type", "media_url", "media_url_https")  # fmt: skip


@given(st.dictionaries(st.sampled_from(_TWEET_KEYS), _JSON | st.dictionaries(st.sampled_from(_TWEET_KEYS), _JSON)))
def test_no_message_does_anything_but_become_a_post_or_be_refused(body: dict[str, Any]) -> None:
    """Tweets with fields of any type at all are read or refused: nothing else may leave the reader."""
    with suppress(BadMessage):
        read(json.dumps(body | {"id_str": "p", "text": "Paris"}).encode(), 100_000)
