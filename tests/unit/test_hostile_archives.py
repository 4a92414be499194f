"""Archives that somebody made to lose posts, to double them, or to take all memory and time."""

import bz2
import gzip
import json
import resource
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from consumers.archive_choice import PostChoice
from consumers.archive_members import MISNAMED, Archives
from consumers.archive_places import MAX_HEADER_BYTES, MAX_NAME_BYTES
from consumers.archive_posts import ArchivePosts, Place
from consumers.posts import Post, post_of

BLOCK = tarfile.BLOCKSIZE


def line(number: int) -> bytes:
    return json.dumps({"id": str(number), "text": f"post {number}"}).encode() + b"\n"


def lines(first: int, count: int) -> bytes:
    return b"".join(map(line, range(first, first + count)))


def member(name: str, data: bytes) -> bytes:
    """A member as it stands in a tar: its headers, its data, the padding."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    return info.tobuf(tarfile.PAX_FORMAT) + data + bytes(-len(data) % BLOCK)


END = bytes(2 * BLOCK)


def replayed(path: Path, after: Place | None = None) -> tuple[list[int], ArchivePosts, Archives, list[Place]]:
    """The numbers of the posts that are found, what counted them, and where they stand."""
    archives = Archives([path])
    posts = ArchivePosts(archives, PostChoice(), max_post_bytes=10_000, after=after)
    found = [post for entry in archives.plan() for post in posts.of(entry)]
    archives.close()
    return [int(each.post.id) for each in found], posts, archives, [each.place for each in found]


@pytest.mark.parametrize("pack", [lambda data: data, gzip.compress], ids=["plain", "gzip"])
def test_what_follows_zeros_in_a_tar_is_read(tmp_path: Path, pack: Any) -> None:
    """Tars that follow each other are all read; a header that is lost takes its own member along, and is told."""
    path = tmp_path / "a.tar"
    path.write_bytes(pack(member("1.json", lines(0, 5)) + END + member("2.json", lines(5, 5)) + END + bytes(100)))
    numbers, _, archives, _ = replayed(path)
    assert numbers == list(range(10))
    assert archives.books.num_warnings == 0
    path.write_bytes(pack(member("1.json", lines(0, 5)) + bytes(BLOCK) + lines(5, 100) + END))
    numbers, _, archives, _ = replayed(path)
    assert numbers == list(range(5))
    assert archives.books.num_warnings == 1


def test_a_file_that_begins_with_zeros_is_no_tar(tmp_path: Path) -> None:
    """What a broken transfer leaves is counted as a line that is no JSON, and the posts behind it are found."""
    path = tmp_path / "zeros.json"
    path.write_bytes(bytes(BLOCK) + b"\n" + lines(0, 100))
    numbers, posts, _, _ = replayed(path)
    assert numbers == list(range(100))
    assert dict(posts.books.skipped) == {"not_json": 1}


def test_members_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """A replay that is stopped in the second goes on in the second."""
    path = tmp_path / "twice.tar"
    path.write_bytes(member("a.json", lines(0, 5)) + member("a.json", lines(5, 5)) + END)
    numbers, _, _, places = replayed(path)
    assert numbers == list(range(10))
    assert len(set(places)) == 10
    for number, place in enumerate(places):
        assert replayed(path, after=place)[0] == list(range(number + 1, 10))


@pytest.mark.parametrize("name", ["é" * 900 + "/20210101/00.json", "x" * 5000 + ".json"])
def test_a_long_name_makes_a_place_that_can_be_kept(tmp_path: Path, name: str) -> None:
    """Brokers keep 4,096 bytes of metadata with an offset; the end of the name still tells its time."""
    path = tmp_path / "long.tar"
    path.write_bytes(member(name, lines(0, 3)) + END)
    numbers, _, _, places = replayed(path)
    assert numbers == [0, 1, 2]
    assert len(json.dumps(places[0].member)) <= MAX_NAME_BYTES
    assert replayed(path, after=places[1])[0] == [2]


def _base_256(size: int) -> bytes:
    header = bytearray(tarfile.TarInfo("a.json").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\x80" + size.to_bytes(11, "big")
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def _extended_sparse() -> bytes:
    """A sparse member whose header goes on and on."""
    header = bytearray(tarfile.TarInfo("a.json").tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[482] = 1
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    extension = bytearray((b"00000000001\0" * 42).ljust(BLOCK, b"\0"))
    extension[504] = 1
    return bytes(header) + bytes(extension) * (64 * MAX_HEADER_BYTES // BLOCK)


def _global_headers() -> bytes:
    """Headers for all that follows, each with other keys."""
    chunks = [{f"k{part}.{number:05}": "v" * 90 for number in range(2000)} for part in range(150)]
    return b"".join(tarfile.TarInfo.create_pax_global_header(chunk) for chunk in chunks)


@pytest.mark.parametrize(
    "bytes_of_tar",
    [_base_256(2**62), _extended_sparse(), _global_headers(), member("x" * 2 * MAX_HEADER_BYTES, b"")],
    ids=["size", "sparse", "global", "name"],
)
@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_headers_take_neither_memory_nor_time(tmp_path: Path, bytes_of_tar: bytes, suffix: str) -> None:
    """A lie about a size ends at the file's end, and headers without end are refused: 300 MB and 30 s are plenty."""
    path = tmp_path / f"bad{suffix}"
    body = member("good.json", lines(0, 3)) + bytes_of_tar
    path.write_bytes(gzip.compress(body, 1) if suffix == ".tar.gz" else body)
    script = (
        "import resource, sys; from tests.unit.test_hostile_archives import replayed; from pathlib import Path;"
        "numbers, _, archives, _ = replayed(Path(sys.argv[1]));"
        "print(len(numbers), archives.books.num_warnings);"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, timeout=30, check=False,
        cwd=Path(__file__).parents[2], preexec_fn=_with_300_mb,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "3"


def _with_300_mb() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (600 << 20, 600 << 20))


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress], ids=["gzip", "bz2"])
def test_what_stands_before_damage_is_read(tmp_path: Path, pack: Any) -> None:
    """A wrong check sum at the end costs the last lines, and not the megabyte before them."""
    data = bytearray(pack(lines(0, 20_000)))
    data[-5] ^= 0xFF
    path = tmp_path / "crc.json"
    path.write_bytes(data)
    numbers, _, archives, _ = replayed(path)
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > 19_000
    assert archives.books.num_warnings == 1


def test_a_tar_in_the_name_of_a_minute_is_told(tmp_path: Path) -> None:
    """What a resumed replay couldn't know to look into is not read in the first place, and says what to do."""
    path = tmp_path / "20210101000000.json.gz"
    path.write_bytes(gzip.compress(member("a.json", lines(0, 5)) + END))
    numbers, _, archives, _ = replayed(path)
    assert numbers == []
    assert archives.books.warnings == [f"{path} {MISNAMED}"]


def _nested(depth: int) -> dict[str, Any]:
    tweet: dict[str, Any] = {"id_str": "1", "user": {}, "entities": {}, "text": "the original…"}
    for number in range(depth):
        tweet = {
            "id_str": str(number), "user": {}, "entities": {}, "text": "RT @a: cut…", "retweeted_status": tweet
        }  # fmt: skip
    return tweet


@pytest.mark.parametrize("depth", [1, 2, 480, 600, 900])
def test_retweets_of_retweets_without_end_are_posts(depth: int) -> None:
    """One step leads to the original; no nest of them takes the worker along."""
    post = post_of(_nested(depth))
    assert isinstance(post, Post)
    assert post.text == ("RT @a: the original…" if depth == 1 else "RT @a: RT @a: cut…")


def test_a_deep_original_that_is_folded_is_skipped_by_reason(tmp_path: Path) -> None:
    """It can be read and not written again; the books say so, and the others go on."""
    deep = '{"a":' * 1010 + "1" + "}" * 1010
    original = f'{{"id_str": "1", "user": {{}}, "entities": {{}}, "text": "x", "deep": {deep}}}'
    retweet = f'{{"id_str": "2", "user": {{}}, "entities": {{}}, "text": "RT @a: x", "retweeted_status": {original}}}'
    path = tmp_path / "fold.jsonl"
    path.write_bytes(line(0) + retweet.encode() + b"\n" + line(5))
    archives = Archives([path])
    posts = ArchivePosts(archives, PostChoice(retweets="fold"), max_post_bytes=100_000)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1000)  # Python's own; Hypothesis raises it
    try:
        found = [post.post.id for entry in archives.plan() for post in posts.of(entry)]
    finally:
        sys.setrecursionlimit(limit)
    assert found == ["0", "5"]
    assert dict(posts.books.skipped) == {"not_a_post": 1}


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+10:00", "9999-12-31T23:59:59-10:00"])
def test_a_date_in_no_year_of_utc_is_left_out(moment: str) -> None:
    """Readers of the event turn it into UTC; the post goes on without it."""
    assert post_of({"id": "1", "text": "a", "created_at": moment}).created_at is None
    assert post_of({"id": "1", "text": "a", "created_at": "2021-01-01T00:00:00+10:00"}).created_at is not None
