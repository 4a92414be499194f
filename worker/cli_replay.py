"""The command `nametag replay`: the posts of archives of tweets, counted, tagged, or put on the topic of posts."""

import argparse
import math
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from worker.moments import read_iso_moment

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

# consumers.archive_choice.Retweets and Deletes, written again so that help need not import it.
RETWEETS = ("keep", "drop", "fold")
DELETES = ("obey", "drop")


def add_replay(commands: "Commands") -> None:
    """Register `nametag replay`."""
    parser = commands.add_parser(
        "replay",
        help="read the posts of Twitter archives, tag them or put them on the topic of posts",
        description="Reads Archive Team's dumps of Twitter's stream in the order of time, nothing unpacked to disk: "
        "tars, zips, compressed tars, tars in tars, folders and single minutes, of bz2, gz or plain lines. Ends "
        "with its books: lines = posts + deletes + control + filtered + skipped.",
        epilog="Ctrl-C stops after the post under way. Settings come as for `nametag worker`.",
    )
    parser.add_argument("paths", metavar="PATH", nargs="+", help="archives, folders of them, or - for standard input")
    _add_what(parser)
    _add_choice(parser)
    parser.add_argument("--resume", type=Path, metavar="FILE",
                        help="keep in FILE how far it came, and go on there: with --to-topic FILE names the replay, "
                        "and the brokers keep how far it came")  # fmt: skip
    parser.add_argument("--rate", metavar="N", type=_rate, help="at most N posts a second")
    parser.add_argument("--speed", metavar="X", type=_speed,
                        help="by the posts' own clock: 1x as they were made, 60x an hour in a minute")  # fmt: skip
    parser.add_argument("--workers", metavar="N", type=_count, default=len(os.sched_getaffinity(0)),
                        help="so many processes read the archives (default: %(default)s, the cores there are); one "
                        "where reading isn't what takes the time (--out, --rate, --speed), and to fold")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="the books as a JSON object")
    parser.add_argument("--config", type=Path, metavar="TOML", help="the settings file")
    parser.set_defaults(run=partial(_replay, parser))


def _add_what(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--dry-run", action="store_true", help="only count, and say how long it would take at --rate or --speed"
    )
    what.add_argument("--to-topic", action="store_true",
                      help="put the posts on the topic of posts as they are, each under its id")  # fmt: skip
    what.add_argument(
        "--out", metavar="JSONL", help="tag the posts here, and write their events (- is standard output)"
    )
    parser.add_argument("--overwrite", action="store_true",
                        help="with --out: take the place of files that are there")  # fmt: skip
    parser.add_argument("--dead-letters", metavar="JSONL", default="dead-letters.jsonl",
                        help="with --out: write dead letters here (default: %(default)s)")  # fmt: skip


def _add_choice(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("which posts")
    group.add_argument("--lang", metavar="TAGS", type=_tags, default=frozenset(),
                       help="only those of these languages, such as en,de")  # fmt: skip
    group.add_argument("--with-photo", action="store_true", help="only those with a photo")
    group.add_argument("--retweets", choices=RETWEETS, default="keep",
                       help="keep them, drop them, or fold them into their original, which comes once "
                       "(default: %(default)s)")  # fmt: skip
    group.add_argument("--deletes", choices=DELETES, default="obey",
                       help="hand them on, each under the id of its post, or only count them "
                       "(default: %(default)s)")  # fmt: skip
    group.add_argument("--since", metavar="TIME", type=read_iso_moment,
                       help="only those made from then on: an ISO time, in UTC unless it says otherwise")  # fmt: skip
    group.add_argument("--until", metavar="TIME", type=read_iso_moment, help="only those made before")
    group.add_argument("--sample", metavar="SHARE", type=float, default=1.0,
                       help="only this share of them, such as 0.01, by their ids: the same each time")  # fmt: skip


def _tags(text: str) -> frozenset[str]:
    return frozenset(tag.strip() for tag in text.split(",") if tag.strip())


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no number above 0")
    return rate


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text} is no whole number above 0")
    return int(text)


def _speed(text: str) -> float:
    return _rate(text.removesuffix("x"))


def _replay(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    if options.resume and not options.to_topic and options.out in (None, "-"):
        parser.error("--resume needs --to-topic, or --out with a file")
    from consumers.archive_choice import PostChoice
    from worker.replay import replay

    try:
        choice = PostChoice(
            languages=options.lang,
            with_photo=options.with_photo,
            retweets=options.retweets,
            since=options.since,
            until=options.until,
            share=options.sample,
            deletes=options.deletes,
        )
    except ValueError as error:
        parser.error(str(error))
    return replay(options, choice)
