"""The commands for who runs a worker: `nametag doctor`, `config` and `init`."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def add_operations(commands: "Commands") -> None:
    """Register the three commands."""
    _add_config(commands)
    _add_init(commands)


def _add_config(commands: "Commands") -> None:
    parser = commands.add_parser(
        "config",
        help="show the settings in force, and where each came from",
        description="Prints every setting as TOML, with a comment: default, the file, or the variable that gave it. "
        "Passwords are masked, also those in URLs. A setting without a value is commented out.",
    )
    parser.add_argument("--config", type=Path, metavar="TOML", help="the settings file")
    parser.set_defaults(run=_config)


def _add_init(commands: "Commands") -> None:
    parser = commands.add_parser(
        "init",
        help="write a settings file to begin with",
        description="Writes a TOML file of every setting with its meaning, each commented out with its default, "
        "for --config of the other commands.",
    )
    parser.add_argument("file", metavar="TOML", nargs="?", default="nametag.toml",
                        help="where to write it (default: %(default)s); - is standard output")  # fmt: skip
    parser.add_argument("--force", action="store_true", help="overwrite a file that is there already")
    parser.set_defaults(run=_init)


def _config(options: argparse.Namespace) -> None:
    from worker.settings import load_with_origins
    from worker.settings_report import describe

    sys.stdout.write(describe(*load_with_origins(options.config)))


def _init(options: argparse.Namespace) -> None:
    from worker.settings_report import template, write_template

    if options.file == "-":
        sys.stdout.write(template())
        return
    write_template(Path(options.file), overwrite=options.force)
    print(f"wrote {options.file}; next: nametag doctor --config {options.file}")
