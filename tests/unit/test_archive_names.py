"""The names of every layout in ../shared/data/archive/FORMATS.md, and those that are to be left alone."""

from datetime import datetime

import pytest

from consumers.archive_names import date_of, leftover, minute_of, trail_of


@pytest.mark.parametrize(
    ("name", "minute"),
    [
        ("twitter-stream-2011-12-26.zip/2011/12/26/20/35.json.bz2", (2011, 12, 26, 20, 35)),
        ("archiveteam-twitter-stream-2013-04.tar/04/01/00/09.json.bz2", (2013, 4, 1, 0, 9)),
        ("archiveteam-twitter-stream-2016-06.tar/2016/06/30/23/59.json.bz2", (2016, 6, 30, 23, 59)),
        ("twitter-stream-2017-11-11.tar/2017/11/11/17/05.json.bz2", (2017, 11, 11, 17, 5)),
        ("twitter-2018-10-01.tar/2018/10/01/00/29.json.bz2", (2018, 10, 1, 0, 29)),
        ("twitter_stream_2019_09_13.tar/13/09/13.json.bz2", (2019, 9, 13, 9, 13)),
        ("twitter-stream-2021-01-01.zip/2021/01/01/10/29.json.bz2", (2021, 1, 1, 10, 29)),
        ("twitter-stream-20220804.tar/20220804/20220804000400.json.gz", (2022, 8, 4, 0, 4)),
        ("twitter-stream-20221212.tar.gz/20221212/20221212000100.json.bz2", (2022, 12, 12, 0, 1)),
        # Duplicates without the month's folder, folders round a layout, an archive in an archive.
        ("archiveteam-twitter-stream-2013-04.tar/04/00/00.json.bz2", (2013, 4, 4, 0, 0)),
        ("archiveteam-twitter-stream-2013-12-b.tar/./12/31/00/00.json.bz2", (2013, 12, 31, 0, 0)),
        ("item/archiveteam-twitter-stream-2018-11.tar/twitter_stream_2018_11_02.tar/02/03/04.json.bz2",
         (2018, 11, 2, 3, 4)),
        ("twitter-stream-2020-07-01/10/29.json.bz2", (2020, 7, 1, 10, 29)),
        ("../../etc/2021/01/01/10/29.json.bz2", (2021, 1, 1, 10, 29)),
        # No layout, no such moment.
        ("10/29.json.bz2", None),
        ("29.json.bz2", None),
        ("tweets.jsonl", None),
        ("2021/13/01/10/29.json.bz2", None),
        ("20220832/20220832000400.json.gz", None),
        ("", None),
    ],
)  # fmt: skip
def test_each_layout_gives_the_minute(name: str, minute: tuple[int, int, int, int, int] | None) -> None:
    """What a path lacks comes from the archive's name."""
    assert minute_of(trail_of(name)) == (datetime(*minute) if minute else None)


def test_an_archive_has_a_date() -> None:
    """Of the innermost name that has one; a month's is its first day."""
    assert date_of(("twitter-stream-2020-12-09.zip",)) == datetime(2020, 12, 9)
    assert date_of(("archiveteam-twitter-stream-2018-10", "twitter_stream_2019_09_13.tar")) == datetime(2019, 9, 13)
    assert date_of(("archiveteam-twitter-stream-2013-04.tar",)) == datetime(2013, 4, 1)
    assert date_of(("tweets.tar", "1234567890.tar")) is None


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (".09.json.bz2.J1uA1l", "rsync"),
        (".nfs00000000050801fe00002afb", "nfs"),
        (".DS_Store", "other"),
        ("._29.json.bz2", "other"),
        ("README.txt", "other"),
        ("29.json.bz2", None),
        ("20220101000000.json.gz", None),
        ("tweets.JSONL", None),
        ("twitter-stream-20221212.tar.gz", None),
        ("twitter-stream-2021-01-01.zip", None),
    ],
)
def test_leftovers_are_told_from_members(name: str, kind: str | None) -> None:
    """What rsync, NFS and others left behind is no member."""
    assert leftover(name) == kind
