"""Posts out of archives: that the books balance, and that only what is wanted comes."""

import bz2
import json
import random
import re
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from consumers import archive_choice
from consumers.archive_choice import PostChoice
from consumers.archive_members import Archives
from consumers.archive_posts import ArchivePost, ArchivePosts, Books
from consumers.deletes import Delete
from consumers.posts import Post

LIMIT = 256 * 1024


def read(path: Path, *, max_post_bytes: int = LIMIT, **choice: Any) -> tuple[list[ArchivePost], Books]:
    archives = Archives([path])
    posts = ArchivePosts(archives, PostChoice(**choice), max_post_bytes=max_post_bytes)
    found = [each for entry in archives.plan() for each in posts.of(entry)]
    only_posts = [each for each in found if isinstance(each.post, Post)]
    assert posts.books.num_lines == posts.books.num_accounted
    assert (posts.books.num_posts, posts.books.num_obeyed) == (len(only_posts), len(found) - len(only_posts))
    return only_posts, posts.books


def tweet(number: int, **fields: Any) -> dict[str, Any]:
    when = f"Fri Jan 01 17:{number % 60:02}:00 +0000 2021"
    return {"id_str": str(number), "text": f"post {number}", "lang": "en", "created_at": when, **fields}


def write(path: Path, bodies: Iterable[Any]) -> Path:
    path.write_bytes(b"".join(json.dumps(body).encode() + b"\r\n" for body in bodies))
    return path


def ids(posts: Iterable[ArchivePost]) -> list[int]:
    return [int(each.post.id) for each in posts]


def test_the_books_of_the_reference_minute(shared_data: Path) -> None:
    """Its index says what each line is; `json` says the rest."""
    folder = shared_data / "archive"
    index = json.loads((folder / "reference_minute.index.json").read_bytes())
    bodies = [json.loads(line) for line in (folder / "reference_minute.json").read_bytes().splitlines()]
    deletes = {each["line"] for each in index if "delete" in each["categories"]}
    retweets = {each["line"] for each in index if any("_rt_" in name for name in each["categories"])}
    photos = {each["line"] for each in index if any("_photo" in name for name in each["categories"])}

    found, books = read(folder / "reference_minute.json")
    assert (books.num_lines, books.num_deletes, books.num_posts) == (
        len(index),
        len(deletes),
        len(index) - len(deletes),
    )
    assert [each.post.id for each in found] == [each["id"] for each in index if each["line"] not in deletes]
    assert not books.control and not books.skipped and not books.filtered
    assert {each.line + 1 for each in found if isinstance(each.post, Post) and each.post.image_urls} >= photos

    _, books = read(folder / "reference_minute.json", retweets="drop")
    num_retweets = sum("retweeted_status" in body for body in bodies)
    assert num_retweets >= len(retweets) > 100
    assert dict(books.filtered) == {"retweet": num_retweets}
    _, books = read(folder / "reference_minute.json", languages=frozenset({"en"}))
    languages = Counter(body["lang"] for body in bodies if "delete" not in body)
    assert dict(books.filtered) == {"language": languages.total() - languages["en"]}


def test_the_books_of_a_real_minute(shared_data: Path) -> None:
    """All its lines are tweets or deletes, and the bytes of each are as they came."""
    found, books = read(shared_data / "archive" / "twitter-stream-2021-01-01.zip")
    assert (books.num_lines, books.num_posts, books.num_deletes) == (3185, 2830, 355)
    assert all(json.loads(each.value)["id_str"] == each.post.id for each in found)
    assert books.first and books.last
    assert (books.first.strftime("%H:%M"), books.last.strftime("%H:%M")) == ("17:29", "17:29")


def test_every_kind_of_line_is_booked(tmp_path: Path) -> None:
    """Notices by kind, blank keep-alives, posts of our own schema, and what can't be read, by reason."""
    path = tmp_path / "minute.json.bz2"
    whole = [
        tweet(1),
        {"delete": {"status": {"id": 1, "id_str": "1", "user_id": 2, "user_id_str": "2"}, "timestamp_ms": "1"}},
        {"limit": {"track": 3}},
        {"limit": {"track": 4}},
        {"scrub_geo": {"user_id": 1}},
        {"status_withheld": {"id": 1}},
        {"user_withheld": {"id": 1}},
        {"disconnect": {"code": 4}},
        {"warning": {"code": "FALLING_BEHIND"}},
        {"friends": [1, 2]},
        {"id": "ours", "text": "a post of our own schema"},
        {"id_str": "2"},
        {"neither": "nor"},
        [1, 2],
        tweet(3, text=7),
        tweet(4, text="x" * 3000),
    ]
    lines = [json.dumps(body).encode() for body in whole] + [b"", b"  ", b"{broken", b"\xff"]
    path.write_bytes(bz2.compress(b"\r\n".join(lines) + b'\r\n{"id_str":"5","te'))
    found, books = read(path, max_post_bytes=1000)
    assert [each.post.id for each in found] == ["1", "ours"]
    assert [each.line for each in found] == [0, 10]
    assert books.num_deletes == 1
    others = ("scrub_geo", "status_withheld", "user_withheld", "disconnect", "warning", "friends")
    assert books.control == Counter({"limit": 2, "keep_alive": 2, **dict.fromkeys(others, 1)})
    assert books.skipped == Counter({"no_text": 3, "not_a_post": 1, "too_large": 1, "not_json": 3})
    assert not books.filtered


def test_deletes_come_in_their_place(tmp_path: Path) -> None:
    """As they came and whenever that was, those of a sample with their posts; they can be left to be counted."""
    withheld = {"status_withheld": {"id": 3, "withheld_in_countries": ["XX"]}}
    bodies = [tweet(1), {"delete": {"status": {"id_str": "1"}}}, {"delete": {"status": {}}}, withheld, tweet(2)]
    path = write(tmp_path / "minute.json", bodies)

    def found(**choice: Any) -> list[ArchivePost]:
        archives = Archives([path])
        posts = ArchivePosts(archives, PostChoice(**choice), max_post_bytes=LIMIT)
        return [each for entry in archives.plan() for each in posts.of(entry)]

    kept = found(languages=frozenset({"de"}), with_photo=True, until=datetime(2021, 1, 1, tzinfo=UTC))
    assert [(each.post, each.line) for each in kept] == [(Delete("1"), 1), (Delete("3"), 3)]
    assert [json.loads(each.value) for each in kept] == [bodies[1], withheld]
    assert [each.post.id for each in found()] == ["1", "1", "3", "2"]
    assert [each.post.id for each in found(deletes="drop")] == ["1", "2"]
    _, books = read(path, deletes="drop")
    assert (books.num_deletes, books.num_obeyed, dict(books.control)) == (2, 0, {"status_withheld": 1})
    for share in (0.1, 0.3, 0.6, 0.9):
        chosen = [each.post.id for each in found(share=share)]
        assert chosen == [name for name in ("1", "1", "3", "2") if archive_choice._fraction(name) < share]


def test_a_cut_member_is_a_warning_and_its_posts_come(tmp_path: Path) -> None:
    """Its last line, if it is unfinished, is skipped and counted."""
    path = tmp_path / "cut.json"
    path.write_bytes(json.dumps(tweet(1)).encode() + b"\n" + json.dumps(tweet(2)).encode())
    packed = bz2.compress(path.read_bytes()) + bz2.compress(b"\n" + b"x" * 1000)[:-9]
    (tmp_path / "cut.json.bz2").write_bytes(packed)
    archives = Archives([tmp_path / "cut.json.bz2"])
    posts = ArchivePosts(archives, PostChoice(), max_post_bytes=LIMIT)
    assert [ids(posts.of(entry)) for entry in archives.plan()] == [[1, 2]]
    assert archives.books.warnings == [f"{tmp_path}/cut.json.bz2 is cut short: its bz2 goes on behind its end"]


def test_languages_and_photos_are_chosen(tmp_path: Path) -> None:
    """A tag takes its regions too; the photo of a retweet may stand in its original alone."""
    photo = {"extended_entities": {"media": [{"type": "photo", "media_url_https": "https://x/a.jpg", "id_str": "1"}]}}
    bodies = [
        tweet(1, lang="en"),
        tweet(2, lang="en-gb", **photo),
        tweet(3, lang="EN_us"),
        tweet(4, lang="eng"),
        tweet(5, lang=None),
        tweet(6, lang="de", **photo),
        tweet(7, retweeted_status=tweet(70, **photo)),
    ]
    path = write(tmp_path / "a.json", bodies)
    found, books = read(path, languages=frozenset({"EN"}))
    assert (ids(found), dict(books.filtered)) == ([1, 2, 3, 7], {"language": 3})
    found, books = read(path, languages=frozenset({"en-gb", "de"}))
    assert ids(found) == [2, 6]
    found, books = read(path, with_photo=True)
    assert (ids(found), dict(books.filtered)) == ([2, 6, 7], {"no_photo": 4})


def test_retweets_are_kept_dropped_or_folded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folded, the original comes once, by whichever line comes first, in full and not as the retweet cuts it."""
    bodies = [
        tweet(1, text="RT @a: a long…", retweeted_status=tweet(10, text="a long text \ud83d")),
        tweet(2),
        tweet(3, retweeted_status=tweet(2)),
        tweet(4, retweeted_status=tweet(10)),
        tweet(10),
        tweet(5, retweeted_status=None),
    ]
    path = write(tmp_path / "a.json", bodies)
    assert ids(read(path)[0]) == [1, 2, 3, 4, 10, 5]
    found, books = read(path, retweets="drop")
    assert (ids(found), dict(books.filtered)) == ([2, 10, 5], {"retweet": 3})
    found, books = read(path, retweets="fold")
    assert (ids(found), dict(books.filtered)) == ([10, 2, 5], {"folded": 3})
    assert found[0].post.text == json.loads(found[0].value)["text"] == "a long text \ud83d"
    monkeypatch.setattr(archive_choice, "MAX_REMEMBERED", 1)
    assert ids(read(path, retweets="fold")[0]) == [10, 2, 10, 5]


def test_a_range_of_time_is_chosen(tmp_path: Path) -> None:
    """By `created_at`, the end left out; a post without a date is in no range."""
    path = write(tmp_path / "a.json", [*(tweet(n) for n in range(10)), tweet(10, created_at=None)])
    since, until = (datetime(2021, 1, 1, 17, minute, tzinfo=UTC) for minute in (3, 6))
    assert ids(read(path, since=since, until=until)[0]) == [3, 4, 5]
    assert ids(read(path, since=until)[0]) == [6, 7, 8, 9]
    found, books = read(path, until=since)
    assert (ids(found), dict(books.filtered)) == ([0, 1, 2], {"time": 8})


def test_a_sample_is_the_same_each_time(tmp_path: Path) -> None:
    """About its share; a smaller one is part of a larger one."""
    path = write(tmp_path / "a.json", (tweet(n) for n in range(5000)))
    tenth, half = (set(ids(read(path, share=share)[0])) for share in (0.1, 0.5))
    assert tenth == set(ids(read(path, share=0.1)[0]))
    assert tenth < half
    assert 400 < len(tenth) < 600
    assert 2300 < len(half) < 2700


@pytest.mark.parametrize("choice", [{"share": 0}, {"share": 1.1}, {"since": datetime.max, "until": datetime.min}])
def test_a_choice_that_makes_no_sense_is_refused(choice: dict[str, Any]) -> None:
    """With what was given."""
    with pytest.raises(ValueError, match=r"must (be|begin)"):
        PostChoice(**choice)


def test_each_of_thousands_of_malformed_lines_is_accounted_for(shared_data: Path, tmp_path: Path) -> None:
    """Cut, struck and glued lines of the reference minute: each is a line of the books, and the good ones come."""
    random.seed(6)
    good = (shared_data / "archive" / "reference_minute.json").read_bytes().splitlines()
    lines: list[bytes] = []
    for _ in range(2500):
        line = bytearray(random.choice(good))
        place = random.randrange(1, len(line))
        kind = random.randrange(4)
        if kind == 0:
            del line[place:]
        elif kind == 1:
            line[place] = random.choice(b'"{}[]:,\\\x00\xff')
        elif kind == 2:
            line += random.choice(good)
        else:
            line = bytearray(re.sub(rb'"(text|full_text|id_str|user)":', b'"\\1":[],"x":', line))
        lines.append(bytes(line))
    (tmp_path / "bad.json").write_bytes(b"\n".join(lines) + b"\n")
    found, books = read(tmp_path / "bad.json")
    assert books.num_lines == 2500
    assert books.skipped.total() > 1500
    assert len(found) == books.num_posts

    (tmp_path / "both.json").write_bytes(b"\n".join(line for pair in zip(good, lines, strict=False) for line in pair))
    assert {each.post.id for each in read(tmp_path / "both.json")[0]} >= {
        json.loads(line)["id_str"] for line in good if not line.startswith(b'{"delete"')
    }
