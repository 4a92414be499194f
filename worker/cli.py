"""The command line. Every command imports what it needs when it runs, so that help is instant."""

import argparse
import asyncio
import atexit
import contextlib
import logging
import os
import sys
import threading
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from worker import cli_model
from worker.cli_dlq import add_dlq
from worker.cli_downstream import add_export, add_tail
from worker.cli_operations import add_operations
from worker.cli_replay import add_replay
from worker.cli_seeing import add_errors, add_tag

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_INTERRUPTED = 130

# model.tokenizer.Scheme, written again so that help need not import the model.
SCHEMES = ("owoputi", "owoputi_hash_split", "twitter2017")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; gives back the exit status: 0, 1 with one sentence on standard error, or 130."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options) or EXIT_OK)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return EXIT_FAILED
    except BaseExceptionGroup as group:
        return _fail(_first(group))
    except Exception as error:
        return _fail(error)


def run() -> NoReturn:
    """The program: `main`, then the end of the process, whatever its threads still do.

    A look-up of a host's name can't be broken off, and Python would wait for its thread for half a minute;
    a client's daemon thread that logs while the interpreter is taken apart aborts the process. And to take torch
    apart lasts a second, and several on a slow disk, under a last line that says that the worker has stopped.
    """
    status = main()
    if threading.active_count() == 1:
        atexit._run_exitfuncs()
    else:
        # Not all of these, for some wait.
        logging.shutdown()
        with contextlib.suppress(Exception):
            # Else multiprocessing's own process finds the semaphores left behind, and warns under the last line.
            sys.modules["multiprocessing.util"]._run_finalizers(0)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        status = status or EXIT_FAILED
    except OSError as error:
        status = status or _fail(error)
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    os._exit(status)


def _fail(error: BaseException) -> int:
    from consumers.errors import ConsumersError
    from model.captions import harmless
    from model.errors import ModelError
    from worker.errors import WorkerError

    # Our own errors are sentences that say what to do; of anything else the place is needed too.
    if not isinstance(error, ConsumersError | ModelError | WorkerError):
        logging.getLogger("nametag").error("unexpected", exc_info=error)
    # It may quote what strangers named, such as the members of an archive.
    print(f"nametag: {harmless(str(error))}", file=sys.stderr)
    return EXIT_FAILED


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nametag",
        description="Tags names in social-media posts, reading the picture as well as the words.",
    )
    parser.add_argument("-V", "--version", action="version", version=f"nametag {version('nametag')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_demo(commands)
    _add_worker(commands)
    add_operations(commands)
    add_replay(commands)
    add_tail(commands)
    add_export(commands)
    add_dlq(commands)
    _add_tokenize(commands)
    _add_practice(commands)
    _add_train(commands)
    cli_model.add_commands(commands)
    add_tag(commands)
    add_errors(commands)
    return parser


def _add_demo(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "demo",
        help="tag the example posts and watch",
        description="Tags the example posts with the shipped checkpoint: no services needed. "
        "Prints the tagged posts, and leaves posts, events and dead letters in a folder.",
    )
    parser.add_argument("--out", type=Path, default=Path("demo-out"), metavar="FOLDER",
                        help="where the files go (default: %(default)s)")  # fmt: skip
    parser.set_defaults(run=_demo)


def _add_worker(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "worker",
        help="tag posts from Kafka, or from a file, until told to stop",
        description="Takes posts from the posts topic, and publishes entity events and dead letters. "
        "SIGTERM or Ctrl-C: finishes what is under way, commits, leaves the group, exits 0.",
        epilog="Settings come from the TOML file and from NAMETAG_… variables, which win: "
        "NAMETAG_KAFKA__BOOTSTRAP_SERVERS is bootstrap_servers in the table [kafka].",
    )
    parser.add_argument("--config", type=Path, metavar="TOML", help="the settings file")
    parser.add_argument("--input", metavar="JSONL",
                        help="read posts from this file (- is standard input) instead of Kafka")  # fmt: skip
    parser.add_argument("--output", metavar="JSONL", default="-",
                        help="with --input: write events here (default: standard output)")  # fmt: skip
    parser.add_argument("--dead-letters", metavar="JSONL", default="dead-letters.jsonl",
                        help="with --input: write dead letters here (default: %(default)s)")  # fmt: skip
    parser.set_defaults(run=_worker)


def _add_tokenize(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "tokenize",
        help="split captions into tokens",
        description="Reads a caption a line from standard input, and writes a JSON object a line: "
        "text, and tokens with text, start and end in code points.",
    )
    parser.add_argument("--scheme", default="owoputi_hash_split", choices=SCHEMES,
                        help="whose rules (default: %(default)s, the paper's)")  # fmt: skip
    parser.set_defaults(run=_tokenize)


def _add_practice(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "practice",
        help="generate the practice set",
        description="Writes captions and drawn pictures in which the picture decides what an ambiguous "
        "name is: train.txt, valid.txt and images, ready for `nametag train`.",
    )
    parser.add_argument("folder", type=Path, help="where to write it")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another set (default: 0)")
    parser.set_defaults(run=_practice)


def _add_train(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "train",
        help="train a checkpoint",
        description="Trains a tagger as the TOML file says, whose paths are relative to where you are. Ctrl-C "
        "keeps the best so far. On several devices: torchrun --nproc-per-node=N -m worker.cli train TOML",
    )
    parser.add_argument("config", type=Path, metavar="TOML", help="the trainer's settings")
    parser.add_argument("--resume", action="store_true",
                        help="go on with an interrupted training, where its last whole epoch ended")  # fmt: skip
    parser.set_defaults(run=_train)


def _demo(options: argparse.Namespace) -> None:
    from worker.logs import configure_logs
    from worker.settings_loading import load_settings

    configure_logs("text", logging.WARNING)
    settings = load_settings()
    # After the settings, for these take seconds: what is wrong in the settings is told at once.
    from rich.console import Console

    from worker.demo import run_demo

    asyncio.run(run_demo(options.out, settings, Console()))


def _worker(options: argparse.Namespace) -> None:
    from worker.logs import configure_logs
    from worker.settings_loading import load_settings

    settings = load_settings(options.config)
    configure_logs(settings.log_format, settings.log_level.upper())
    told = {"version": version("nametag"), "checkpoint": settings.checkpoint.name, "device": settings.device}
    logging.getLogger("nametag.worker").info("starting", extra=told)
    # After the settings, for these take seconds: what is wrong in the settings is told at once.
    from worker.tagger_start import begin_tagger

    first = begin_tagger(settings)
    from worker.garbage import collect_seldom
    from worker.service import Files, run_worker

    files = None
    if options.input is not None:
        files = Files(posts=options.input, events=options.output, dead_letters=options.dead_letters)

    def listening(address: str) -> None:
        logging.getLogger("nametag.worker").info("listening", extra={"address": address})

    on_listening = None if files else listening
    asyncio.run(run_worker(settings, files, on_listening=on_listening, on_loaded=collect_seldom, first=first))


def _tokenize(options: argparse.Namespace) -> None:
    from consumers import wire
    from model.tokenizer import Scheme, tokenize

    scheme = Scheme(options.scheme)
    for line in sys.stdin.buffer:
        text = line.rstrip(b"\r\n").decode("utf-8", "replace")
        tokens = [{"text": token.text, "start": token.start, "end": token.end} for token in tokenize(text, scheme)]
        sys.stdout.buffer.write(wire.dumps({"text": text, "tokens": tokens}) + b"\n")
    sys.stdout.buffer.flush()


def _practice(options: argparse.Namespace) -> None:
    from model.practice import write_practice_set

    write_practice_set(options.folder, seed=options.seed)
    print(f"wrote the practice set to {options.folder}/")
    print("next: nametag train model/starter/practice.toml, which looks for it in practice/")


def _train(options: argparse.Namespace) -> None:
    from model.train import TrainConfig, train

    print(train(TrainConfig.from_toml(options.config), resume=options.resume))


if __name__ == "__main__":
    run()
