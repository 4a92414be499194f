"""The commands for those who read the entities topic: `nametag tail` and `nametag export`."""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from worker.moments import HELP, read_moment

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

# worker.export_choice.By, written again so that help need not import it.
TIMES = ("published", "tagged_at", "created_at")

FORMATS = (".parquet", ".jsonl")

# model.labels' four, written again for the same reason.
TYPES = ("PER", "LOC", "ORG", "MISC")


def add_tail(commands: "Commands") -> None:
    """Register `nametag tail`."""
    parser = commands.add_parser(
        "tail",
        help="watch the entity events go by",
        description="Prints the events of the entities topic as they come, a line each, names in colour. A line with "
        "✗ says that a post was taken back. Joins no group, and changes nothing.",
        epilog="Ctrl-C ends it. Records that are no events are skipped, and told on standard error.",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--since", metavar="TIME", type=read_moment,
                       help=f"begin with what was published since: {HELP}")  # fmt: skip
    where.add_argument("--from-beginning", action="store_true",
                       help="begin with the oldest that is kept (without: with what comes from now on)")  # fmt: skip
    parser.add_argument("--type", metavar="PER,LOC", type=_types, dest="types",
                        help="only posts with a name of one of these, and none that was taken back")  # fmt: skip
    parser.add_argument("--json", action="store_true",
                        help="all of each, a JSON object a line; a post taken back has deleted: true")  # fmt: skip
    parser.add_argument("--no-follow", action="store_true",
                        help="end at what is the end now; begin with the oldest, without --since")  # fmt: skip
    _add_config(parser)
    parser.set_defaults(run=_tail)


def add_export(commands: "Commands") -> None:
    """Register `nametag export`."""
    parser = commands.add_parser(
        "export",
        help="write the entity events into a Parquet or JSONL file",
        description="Writes the events of a time range into a file, which is there whole or not at all. Of several "
        "events of a post the last is written. The topic is always read to its end, for the posts that were taken "
        "back: none of them is written.",
        epilog="Parquet needs pyarrow: pip install 'nametag[parquet]'. Settings come as for `nametag worker`.",
    )
    parser.add_argument("--out", type=_target, required=True, metavar="FILE", help="FILE.parquet, or FILE.jsonl")
    parser.add_argument("--since", metavar="TIME", type=read_moment, help=f"only events since then: {HELP}")
    parser.add_argument("--until", metavar="TIME", type=read_moment, help="only events before then")
    parser.add_argument("--by", choices=TIMES, default="published",
                        help="which time --since and --until mean: when the event was put on the topic (without), when "
                        "the post was tagged, or when it was made; these two read the whole topic")  # fmt: skip
    parser.add_argument("--all", action="store_true", help="all events of a post, not the last one alone")
    parser.add_argument("--overwrite", action="store_true", help="take the place of a file that is there")
    _add_config(parser)
    parser.set_defaults(run=partial(_export, parser))


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="TOML", help="the settings file")


def _types(text: str) -> frozenset[str]:
    types = frozenset(part.strip().upper() for part in text.split(",") if part.strip())
    if not types:
        raise argparse.ArgumentTypeError("name types such as PER,LOC")
    return types


def _target(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() not in FORMATS:
        raise argparse.ArgumentTypeError(f"{text} must end in {' or '.join(FORMATS)}, which says what is written")
    return path


def _tail(options: argparse.Namespace) -> None:
    if unknown := sorted((options.types or frozenset()) - set(TYPES)):
        told = f"nametag: {', '.join(unknown)}: none of {', '.join(TYPES)}; only a checkpoint of your own has others"
        print(told, file=sys.stderr)
    from worker.tail import tail

    tail(options)


def _export(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if options.since and options.until and options.since >= options.until:
        parser.error("--since must be before --until")
    from worker.export import export

    export(options)
