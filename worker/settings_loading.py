"""Settings are read here and nowhere else: from one TOML file and `NAMETAG_…` variables.

A variable wins over the file, the file over the default. `NAMETAG_KAFKA__GROUP_ID` is
`group_id` in the file's table `[kafka]`; `NAMETAG_KAFKA` is the whole table, as a JSON object.
"""

import json
import os
import tomllib
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from worker.errors import SettingsError
from worker.settings import BETWEEN, PREFIX, Settings, Table

SettingPath = tuple[str, ...]
"""A setting's name, or its table's and its own."""


def load_settings(path: Path | None = None) -> Settings:
    """The settings in force. Raises `SettingsError` with every field that is wrong, and how to set it."""
    return load_with_origins(path)[0]


def load_with_origins(path: Path | None = None) -> tuple[Settings, dict[SettingPath, str]]:
    """The settings in force, and the file or the variable of each that isn't a default. Raises `SettingsError`."""
    values = _read_toml(path) if path is not None else {}
    origins = dict.fromkeys(_paths(values), str(path)) | _check_variables()
    try:
        return Settings(**values), origins
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        told = "; ".join(_explain(problem, origins) for problem in problems)
        raise SettingsError(f"the settings are wrong: {told}") from error


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path} can't be read ({error.strerror}); name another with --config") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is no TOML: {error}") from error


def _tables() -> dict[str, type[Table]]:
    """The tables among the settings, by name."""
    kinds = {name: field.annotation for name, field in Settings.model_fields.items()}
    return {name: kind for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, Table)}


def _paths(values: dict[str, Any]) -> Iterator[SettingPath]:
    """Where values stand: each key, and each key of a table."""
    for name, value in values.items():
        yield (name,)
        if isinstance(value, dict):
            yield from ((name, key) for key in value)


def _check_variables() -> dict[SettingPath, str]:
    """The variable that gives each setting.

    pydantic-settings overlooks a misspelt top-level variable, and tells of one that is no JSON without its
    name; a newcomer shouldn't have to find out.
    """
    tables = _tables()
    known = [*Settings.model_fields, *(table + BETWEEN + key for table in tables for key in tables[table].model_fields)]
    origins: dict[SettingPath, str] = {}
    problems: list[str] = []
    for variable in sorted(os.environ):
        if not variable.upper().startswith(PREFIX) or variable.upper().startswith(PREFIX + "TEST_"):
            continue
        name = variable[len(PREFIX) :].lower()
        if name in tables:
            try:
                origins |= dict.fromkeys(_paths({name: _read_table(os.environ[variable])}), variable)
            except ValueError:
                problems.append(_no_table(variable, name))
        elif name in known:
            origins[tuple(name.split(BETWEEN))] = variable
        else:
            problems.append(_no_such_variable(variable, name, known))
    if problems:
        raise SettingsError("; ".join(problems))
    return origins


def _read_table(text: str) -> dict[str, Any]:
    table = json.loads(text)
    if not isinstance(table, dict):
        raise ValueError("no JSON object")
    return table


def _no_table(variable: str, table: str) -> str:
    key, field = next(iter(_tables()[table].model_fields.items()))
    example = json.dumps({key: field.default or (field.examples or [""])[0]})
    return (
        f"{variable} stands for a whole table, so it must be a JSON object such as {example}; "
        f"one key alone is set with {variable}{BETWEEN}{key.upper()}"
    )


def _no_such_variable(variable: str, name: str, known: list[str]) -> str:
    glued = [right for right in known if right.replace(BETWEEN, "_") == name.replace(BETWEEN, "_")]
    if glued:
        right = PREFIX + glued[0].upper()
        return f"no such setting: {variable}; did you mean {right}, with two underscores after the table's name?"
    table, between, key = name.partition(BETWEEN)
    if between and table in _tables():
        keys = _tables()[table].model_fields
        near = [table + BETWEEN + right for right in get_close_matches(key, keys, n=1)]
        hint = f"the table's keys are {', '.join(keys)}"
    else:
        near = get_close_matches(name, known, n=1)
        hint = "unset it, or look for the right one in `nametag init -`"
    if near:
        hint = f"did you mean {PREFIX}{near[0].upper()}?"
    return f"no such setting: {variable}; {hint}"


def _explain(problem: ErrorDetails, origins: dict[SettingPath, str]) -> str:
    """One wrong setting: its name, where it came from, and what it must be."""
    path = tuple(map(str, problem["loc"][:2]))
    origin = origins.get(path) or origins.get(path[:1]) or "the default"
    setting = f"{'.'.join(path)} ({origin})"
    if problem["type"] == "extra_forbidden":
        table = _tables()[path[0]] if len(path) > 1 else Settings
        near = get_close_matches(path[-1], table.model_fields, n=1)
        hint = f"did you mean {near[0]}?" if near else f"the keys are {', '.join(table.model_fields)}"
        return f"{setting} is no setting; {hint}"
    if problem["type"] in ("model_type", "model_attributes_type"):
        return f"{setting} must be a table"
    return f"{setting} {problem['msg'].removeprefix('Value error, ').replace('Input should', 'must')}"
