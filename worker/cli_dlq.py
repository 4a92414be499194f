"""The commands about dead letters: `nametag dlq ls`, `show` and `retry`."""

import argparse
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from worker.moments import HELP, read_moment

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

# consumers.errors.Reason, written again so that help need not import it.
REASONS = ("empty", "too_large", "not_json", "not_a_post", "no_text", "tagging_failed")


def add_dlq(commands: "Commands") -> None:
    """Register `nametag dlq` and its commands."""
    parser = commands.add_parser(
        "dlq",
        help="list dead letters, look at one, put them back",
        description="Reads the topic of dead letters: messages that could not be tagged, with their reason. "
        "Settings come as for `nametag worker`.",
    )
    inner = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_ls(inner)
    _add_show(inner)
    _add_retry(inner)


def _add_ls(commands: "Commands") -> None:
    parser = commands.add_parser(
        "ls",
        help="list dead letters, a line each",
        description="Lists the letters that stand on the topic now, oldest first: where, when, why, where the "
        "post stood, its key or id, and the sentence. Ends with how many there are of each reason.",
    )
    _add_config(parser)
    _add_filters(parser, "the newest N")
    parser.add_argument("--json", action="store_true", help="a JSON object a line; the counts go to standard error")
    parser.set_defaults(run=_ls)


def _add_show(commands: "Commands") -> None:
    parser = commands.add_parser(
        "show",
        help="show all of one dead letter",
        description="Prints a letter's reason, history and headers, and the message's bytes: as text where they "
        "are UTF-8, else as a hex dump.",
    )
    _add_config(parser)
    parser.add_argument("position", metavar="POSITION", type=_position, help="such as dead-letters[0]@17, or 0@17")
    parser.add_argument("--raw", action="store_true", help="write the message's bytes alone, exactly as they came")
    parser.set_defaults(run=_show)


def _add_retry(commands: "Commands") -> None:
    parser = commands.add_parser(
        "retry",
        help="put messages back on their topic, each once",
        description="Puts the messages of dead letters back on the topic that they came from: key, bytes and "
        "headers as they were, and their history. In the same transaction each letter is marked as retried, so "
        "that the same command again, even after a kill, puts nothing back twice.",
    )
    _add_config(parser)
    parser.add_argument("positions", metavar="POSITION", nargs="*", type=_position,
                        help="which letters, such as dead-letters[0]@17, or 0@17")  # fmt: skip
    parser.add_argument("--all", action="store_true", help="all letters that were not retried yet")
    _add_filters(parser, "the oldest N")
    parser.add_argument("--to", metavar="TOPIC", help="the topic to put them on, wherever they came from")
    parser.add_argument("--again", action="store_true", help="also letters that were retried already")
    parser.add_argument("--dry-run", action="store_true", help="list what would be put back, and change nothing")
    parser.add_argument("--yes", action="store_true", help="don't ask, though it is more than one")
    parser.set_defaults(run=partial(_retry, parser))


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="TOML", help="the settings file")


def _add_filters(parser: argparse.ArgumentParser, which: str) -> None:
    parser.add_argument("--reason", choices=REASONS, metavar="R", help=f"only those of a reason: {', '.join(REASONS)}")
    parser.add_argument("--since", metavar="TIME", type=read_moment,
                        help=f"only those that failed since then: {HELP}")  # fmt: skip
    parser.add_argument("--limit", metavar="N", type=_positive, help=f"only {which}")


def _positive(text: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number from 1 on")
    return int(text)


def _position(text: str) -> str:
    from consumers.letters import read_position

    try:
        read_position(text, "")
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}") from None
    # The topic that the short form means is known only from the settings.
    return text


def _ls(options: argparse.Namespace) -> None:
    from worker.dlq import ls

    ls(options)


def _show(options: argparse.Namespace) -> None:
    from worker.dlq import show

    show(options)


def _retry(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    chooses = options.all or options.reason or options.since
    if options.positions and (chooses or options.limit):
        parser.error("name positions, or choose with --all, --reason and --since; not both")
    if not options.positions and not chooses:
        parser.error("say which letters: positions, --all, --reason or --since")
    from worker.dlq import retry

    return retry(options)
