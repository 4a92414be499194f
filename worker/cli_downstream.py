"""The command for those who watch the entities topic: `nametag tail`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from worker.moments import HELP, read_moment

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


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


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="TOML", help="the settings file")


def _types(text: str) -> frozenset[str]:
    types = frozenset(part.strip() for part in text.split(",") if part.strip())
    if not types:
        raise argparse.ArgumentTypeError("name types such as PER,LOC")
    return types


def _tail(options: argparse.Namespace) -> None:
    from worker.tail import tail

    tail(options)
