"""The commands for who runs a worker: `nametag doctor`, `config` and `init`."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def add_operations(commands: "Commands") -> None:
    """Register the three commands."""
    _add_doctor(commands)
    _add_config(commands)
    _add_init(commands)


def _add_doctor(commands: "Commands") -> None:
    parser = commands.add_parser(
        "doctor",
        help="tell what is wrong, before a worker starts",
        description="Checks the settings, the brokers (name, port, TLS, version, login, addresses, topics, rights), "
        "Redis, the server's port and token, the checkpoint, the device and the clocks, and says of each what to do. "
        "Changes nothing: of Redis it uses two keys of its own for a second. Exits 0 where a worker can start, else 1.",
    )
    parser.add_argument("--config", type=Path, metavar="TOML", help="the settings file")
    parser.add_argument("--json", action="store_true", help="one JSON object, for programs, when all is done")
    parser.set_defaults(run=_doctor)


def _add_config(commands: "Commands") -> None:
    parser = commands.add_parser(
        "config",
        help="show the settings in force, and where each came from",
        description="Prints every setting as TOML, with a comment: default, the file, or the variable that gave it. "
        "Passwords are masked, also those in URLs. A setting without a value is commented out.",
    )
    parser.add_argument("--config", type=Path, metavar="TOML", help="the settings file")
    parser.add_argument("--json", action="store_true", help="one JSON object, for programs: name, value and source")
    parser.set_defaults(run=_config)


def _add_init(commands: "Commands") -> None:
    parser = commands.add_parser(
        "init",
        help="write a settings file to begin with",
        description="Writes a TOML file of every setting with its meaning, each commented out with its default or an "
        "example, for --config of the other commands.",
    )
    parser.add_argument("file", metavar="TOML", nargs="?", default="nametag.toml",
                        help="where to write it (default: %(default)s); - is standard output")  # fmt: skip
    parser.add_argument("--force", action="store_true", help="overwrite a file that is there already")
    parser.set_defaults(run=_init)


def _doctor(options: argparse.Namespace) -> int:
    from rich.console import Console

    from worker.doctor import as_objects, examine, print_check, summary

    console = Console(highlight=False)
    checks = examine(options.config, lambda check: None if options.json else print_check(check, console))
    if options.json:
        print(json.dumps(as_objects(checks), indent=2))
    else:
        console.print(summary(checks), soft_wrap=True)
    return int(any(check.state == "fail" for check in checks))


def _config(options: argparse.Namespace) -> None:
    from worker.settings_loading import load_with_origins
    from worker.settings_report import as_objects, describe

    settings, origins = load_with_origins(options.config)
    if options.json:
        print(json.dumps(as_objects(settings, origins), indent=2))
    else:
        sys.stdout.write(describe(settings, origins))


def _init(options: argparse.Namespace) -> None:
    from worker.settings_report import template, write_template

    if options.file == "-":
        sys.stdout.write(template())
        return
    write_template(Path(options.file), overwrite=options.force)
    print(f"wrote {options.file}; next: nametag doctor --config {options.file}")
