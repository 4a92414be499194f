"""Members of archives of every kind, in the order of time, and what is left alone."""

import bz2
import gzip
import io
import sys
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

from consumers import archive_members
from consumers.archive_lines import lines
from consumers.archive_members import Archives, MemberBooks
from consumers.archive_streams import MemberBroken
from consumers.errors import SourceUnavailable

MONTH = "archiveteam-twitter-stream-2013-04.tar"


def minute(text: str) -> bytes:
    return bz2.compress(text.encode() + b"\r\n")


def tar(members: Mapping[str, bytes], mode: str = "w") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def zipped(members: Mapping[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", kind) as archive:
        archive.writestr("2021/", b"")
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def read(*paths: str | Path) -> tuple[list[str], MemberBooks]:
    """The lines of all members in order, and the books."""
    archives = Archives(paths)
    found: list[str] = []
    for entry in archives.plan():
        for member, stream in archives.members(entry):
            try:
                found.extend(line.decode() for line in lines(stream, 1000))
            except MemberBroken as error:
                archives.books.warn(member, error)
    archives.close()
    return found, archives.books


def gz(data: bytes) -> bytes:
    """Compressed, and the same each time: what a test is called may be made of it."""
    return gzip.compress(data, mtime=0)


DAY = {"13/09/13.json.bz2": minute("c"), "13/00/01.json.bz2": minute("a"), "13/09/02.json.bz2": minute("b")}
SECONDS = {f"20220101/202201010{n}0000.json.gz": gz(f"{n}\n".encode()) for n in (2, 0, 1)}
YEAR = {f"2021/01/01/{name[3:]}": data for name, data in DAY.items()}


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("twitter-stream-2021-01-01.zip", zipped(YEAR), "abc"),
        ("stored.zip", zipped(YEAR, zipfile.ZIP_STORED), "abc"),
        ("twitter_stream_2019_09_13.tar", tar(DAY), "abc"),
        (MONTH, tar({f"04/{name}": data for name, data in DAY.items()}), "abc"),
        ("twitter-stream-20220101.tar", tar(SECONDS), "012"),
        # Days in a month, out of order.
        (MONTH, tar({f"twitter-2013-04-0{n}.tar": tar({f"0{n}/00/00.json.bz2": minute(str(n))}) for n in (3, 1, 2)}),
         "123"),
        ("days.tar", tar({"twitter-stream-2021-01-01.zip": zipped(YEAR)}), "abc"),
        # From front to back: as they stand.
        ("twitter-stream-20221212.tar.gz", gz(tar(DAY)), "cab"),
        ("twitter-stream-20221212.tar.bz2", bz2.compress(tar(DAY)), "cab"),
        ("tars.zip", zipped({"twitter_stream_2019_09_13.tar": tar(DAY)}), "cab"),
        ("tars.tar.gz", gz(tar({"twitter_stream_2019_09_13.tar": tar(DAY)})), "cab"),
        ("13.json.bz2", minute("a"), "a"),
        ("tweets.jsonl", b"a\nb\n", "ab"),
    ],
)  # fmt: skip
def test_each_kind_is_read(
    name: str, data: bytes, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its name, from standard input where it needn't be jumped in, and by a name that says nothing."""
    (tmp_path / name).write_bytes(data)
    found, books = read(tmp_path / name)
    assert ("".join(found), books.warnings) == (expected, [])
    assert books.num_read == (1 if name[:2] in ("13", "tw") and len(expected) < 3 else len(expected))
    if not data.startswith(b"PK"):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))
        assert sorted(read("-")[0]) == sorted(expected) or name == "days.tar"


def test_folders_and_archives_share_one_order(tmp_path: Path) -> None:
    """Single minutes, a day and a compressed tar come by their time; what has none comes last."""
    (tmp_path / "zz_twitter_stream_2019_09_12.tar").write_bytes(tar({"12/00/00.json.bz2": minute("1")}))
    (tmp_path / "aa-20190914.tar.gz").write_bytes(gz(tar({"14/00/00.json.bz2": minute("3")})))
    single = tmp_path / "2019/09/13/00"
    single.mkdir(parents=True)
    (single / "00.json.bz2").write_bytes(minute("2"))
    (tmp_path / "aa.jsonl").write_bytes(b"4\n")
    assert read(tmp_path)[0] == ["1", "2", "3", "4"]


def test_leftovers_and_duplicates_are_left_alone_and_counted(tmp_path: Path) -> None:
    """Each by its reason; of duplicates, with or without the month's folder, the largest is read."""
    members = {
        "04/04/00/00.json.bz2": minute("short"),
        "04/00/00.json.bz2": minute("the longer one of the two"),
        "04/04/00/.01.json.bz2.J1uA1l": minute("rsync"),
        "04/04/00/.nfs00000000050801fe00002afb": b"nfs",
        "04/README.txt": b"other",
    }
    (tmp_path / MONTH).write_bytes(tar(members))
    (tmp_path / "archiveteam-twitter-stream-2013-04-b.tar").write_bytes(tar({"04/04/00/00.json.bz2": minute("b")}))
    expected = {"duplicate": 2, "rsync": 1, "nfs": 1, "other": 1}
    found, books = read(tmp_path)
    assert (found, dict(books.left_alone), books.num_read) == (["the longer one of the two"], expected, 1)

    (tmp_path / "again.tar.gz").write_bytes(gz(tar({"x-2013-04/04/04/00/00.json.bz2": minute("again")})))
    assert read(tmp_path)[1].left_alone["duplicate"] == 3
    assert read(tmp_path / MONTH, tmp_path / MONTH, tmp_path)[1].left_alone["duplicate"] == 5


def test_names_reach_no_file_and_links_lead_nowhere(tmp_path: Path) -> None:
    """A path out of the archive is a name like any other; links, devices and pipes are no members."""
    secret = tmp_path / "secret.jsonl"
    secret.write_bytes(b"secret\n")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo("00/00/00.json")
            info.type, info.linkname = kind, str(secret)
            archive.addfile(info)
        for name in (str(secret), "../" * 20 + str(secret)):
            info = tarfile.TarInfo(name)
            info.size = 6
            archive.addfile(info, io.BytesIO(b"inside"))
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "tricks.tar").write_bytes(out.getvalue())
    (folder / "tricks.tar.gz").write_bytes(gz(out.getvalue()))
    (folder / "link.jsonl").symlink_to(secret)
    link = zipfile.ZipInfo("link.jsonl")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(folder / "tricks.zip", "w") as tricks:
        tricks.writestr(link, str(secret))
        tricks.writestr("../" * 20 + str(secret), b"inside")
    found, books = read(folder)
    assert found == ["inside"] * 5
    assert dict(books.left_alone) == {"no_file": 10}
    assert secret.read_bytes() == b"secret\n"


def test_zips_that_would_fill_the_memory_are_left_alone(tmp_path: Path) -> None:
    """Of what zips may hold, only stored and deflated members can be read bit by bit; and no bomb."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.jsonl", b"a\n", zipfile.ZIP_BZIP2)
        archive.writestr("b.jsonl", b"b\n" * 50_000_000, zipfile.ZIP_DEFLATED)
        archive.writestr("c.jsonl", b"c\n")
    found, books = read(tmp_path)
    assert (found, dict(books.left_alone)) == (["c"], {"compression": 1, "bomb": 1})


def cut(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3]


def struck(data: bytes) -> bytes:
    """A tar whose second header is damaged."""
    second = 512 + -(-tarfile.TarInfo.frombuf(data[:512], "utf-8", "strict").size // 512) * 512
    return data[: second + 100] + b"\xff" * 8 + data[second + 108 :]


def negative(data: bytes) -> bytes:
    """A tar whose first member has a size below 0, which its checksum confirms."""
    info = tarfile.TarInfo("00/00/00.json")
    info.size = -512
    return info.tobuf(tarfile.GNU_FORMAT) + data


BIG = {f"13/00/{n:02}.json.bz2": bz2.compress(b"%d\n" % n) + b"\0" * 3000 for n in range(10)}


@pytest.mark.parametrize(
    ("name", "data", "num_found"),
    [
        ("twitter-stream-2020-12-09.zip", cut(zipped(BIG)), 0),
        ("named.zip", b"rubbish" * 1000, 0),
        ("named.tar", b"rubbish" * 1000, 0),
        ("named.tar.gz", gz(b"rubbish" * 1000), 0),
        ("empty.tar", b"", 0),
        ("cut_2019_09_13.tar", cut(tar(BIG)), 8),
        ("cut_2019_09_13.tar.gz", gz(cut(tar(BIG))), 8),
        ("unended_2019_09_13.tar", tar(BIG)[: 10 * 3584], 10),
        ("struck_2019_09_13.tar", struck(tar(BIG)), 1),
        ("struck_2019_09_13.tar.gz", gz(struck(tar(BIG))), 1),
        ("negative.tar", negative(tar(BIG)), 0),
        ("negative.tar.gz", gz(negative(tar(BIG))), 0),
        ("zip_2019_09_13.tar.gz", gz(tar({"a.zip": zipped(BIG)})), 0),
        ("00.json.bz2", minute("x")[:-5], 0),
    ],
)
def test_a_broken_input_is_named_and_the_others_go_on(name: str, data: bytes, num_found: int, tmp_path: Path) -> None:
    """It gives what stands before the break, and a counted warning."""
    (tmp_path / name).write_bytes(data)
    (tmp_path / "twitter-stream-2021-01-01.zip").write_bytes(zipped(YEAR))
    found, books = read(tmp_path)
    assert [line for line in found if line in "abc"] == ["a", "b", "c"]
    assert len([line for line in found if line.isdigit()]) == num_found
    assert 1 <= books.num_warnings <= 2
    assert all(warning.startswith(str(tmp_path / name)) for warning in books.warnings)


def test_a_header_is_not_held_beyond_a_limit(tmp_path: Path) -> None:
    """A long name of gigabytes, which a compressed tar can claim for nothing."""
    long = tarfile.TarInfo("././@LongLink")
    long.type, long.size = tarfile.GNUTYPE_LONGNAME, 8 * 1024**3
    (tmp_path / "a.tar.gz").write_bytes(gz(long.tobuf(tarfile.GNU_FORMAT) + b"\0" * 100_000))
    assert "a header of more than" in read(tmp_path)[1].warnings[0]


def test_archives_in_archives_end_somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On disk and from front to back."""
    monkeypatch.setattr(archive_members, "MAX_DEPTH", 2)
    deep = tar({"c.jsonl": b"c\n"})
    for level in range(2):
        deep = tar({f"{level}.tar": deep, f"{level}.jsonl": b"%d\n" % level})
    wrap: list[Callable[[bytes], bytes]] = [bytes, gz]
    for pack in wrap:
        (tmp_path / "deep.tar").write_bytes(pack(deep))
        found, books = read(tmp_path)
        assert sorted(found) == ["0", "1"]
        assert "one in the other" in books.warnings[0]


def test_an_input_that_is_not_there_is_said(tmp_path: Path) -> None:
    """Before anything is read."""
    with pytest.raises(SourceUnavailable, match=r"gone\.tar isn't there; name archives"):
        Archives([tmp_path, tmp_path / "gone.tar"]).plan()


def test_the_real_zip(shared_data: Path) -> None:
    """The day of 2021 that archive.org has, cut down to a minute: and its lines."""
    found, books = read(shared_data / "archive" / "twitter-stream-2021-01-01.zip")
    assert (len(found), books.num_read, books.num_warnings) == (3185, 1, 0)
