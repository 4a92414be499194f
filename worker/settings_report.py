"""The settings told: those in force with where each came from, and a file of all of them to begin with."""

import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from worker.errors import SettingsError
from worker.settings import BETWEEN, PREFIX, Settings, Table
from worker.settings_loading import SettingPath

MASK = "***"

SECRET_URLS = ("url", "deletes_url", "proxy")
"""The secrets of which all but the password may be seen."""
WIDTH = 100

HEAD = f"""\
# The settings of nametag, each commented out with its default, or with an example where there is none:
# take the # away from a line to change it.
# A variable wins over this file: group_id in the table [kafka] is {PREFIX}KAFKA{BETWEEN}GROUP_ID, and {PREFIX}DEVICE
# is device. Passwords are better kept in variables. `nametag config` shows what is in force,
# `nametag doctor` whether it works.
"""


def describe(settings: Settings, origins: Mapping[SettingPath, str]) -> str:
    """The settings in force as TOML, secrets masked; a comment at each has the file or the variable that gave it."""
    rows: list[tuple[str, str]] = []
    for path, _, value in _fields(settings):
        if value is not None and isinstance(value, Table):
            rows += [("", ""), (f"[{path[0]}]", "")]
            continue
        rows.append((_line(path[-1], value), f"  # {origins.get(path, 'default')}"))
    width = min(max(len(line) for line, _ in rows), 44)
    return "".join(f"{line:{width if origin else 0}}{origin}\n" for line, origin in rows)


def as_objects(settings: Settings, origins: Mapping[SettingPath, str]) -> dict[str, object]:
    """The same for programs: the schema of `--json`."""
    return {
        "settings": [
            {"name": ".".join(path), "value": _plain(path[-1], value), "source": origins.get(path, "default")}
            for path, _, value in _fields(settings)
            if not isinstance(value, Table)
        ]
    }


def template() -> str:
    """A TOML file of every setting, with its meaning, commented out with its default, or with an example."""
    parts = [HEAD]
    for path, field, default in _fields(Settings.model_construct()):
        if isinstance(default, Table):
            parts.append(f"\n\n# {field.description}\n[{path[0]}]\n")
            continue
        parts.append("\n" + _comment(field))
        if default is None:
            (example,) = field.examples or [""]
            parts.append(f"#{path[-1]} = {_toml(example)}  # an example; no default\n")
        else:
            parts.append(f"#{_line(path[-1], default)}\n")
    return "".join(parts)


def write_template(path: Path, *, overwrite: bool) -> None:
    """Write `template()` to `path`. Raises `SettingsError` where there is something already, or it can't be written."""
    try:
        with path.open("w" if overwrite else "x", encoding="utf-8") as file:
            file.write(template())
    except FileExistsError:
        raise SettingsError(f"{path} is there already; name another file, or overwrite it with --force") from None
    except OSError as error:
        raise SettingsError(f"{path} can't be written ({error.strerror}); name another file") from error


def mask(value: object) -> object:
    """`value`, without what is secret in it: a secret, or the password in a URL."""
    if isinstance(value, SecretStr):
        secret = value.get_secret_value()
        return _masked_url(secret) if "://" in secret else MASK
    if isinstance(value, str) and "://" in value and "@" in value:
        return _masked_url(value)
    if isinstance(value, tuple | frozenset):
        return [mask(part) for part in (sorted(value) if isinstance(value, frozenset) else value)]
    return value


def _masked_url(text: str) -> str:
    """The URL with its password masked; nothing of it where it can't be told for sure what its password is."""
    try:
        url = urlsplit(text)
        _ = url.port
    except ValueError:
        return MASK
    login, at, host = url.netloc.rpartition("@")
    # A password with a / ? # or @ that isn't written as % spills over into the parts after it.
    if any("@" in part or ":" in part for part in (url.path, url.query, url.fragment)) or url.fragment or "@" in login:
        return MASK
    user, colon, _ = login.partition(":")
    shown = f"{user}:{MASK}" if colon else MASK
    query = re.sub(r"(?i)([^&=]*(?:pass|secret|token)[^&=]*)=[^&]*", rf"\1={MASK}", url.query)
    return f"{url.scheme}://{shown + at if at else ''}{host}{url.path}{'?' + query if query else ''}"


def _fields(settings: Settings) -> Iterator[tuple[SettingPath, FieldInfo, Any]]:
    """Every setting with its place and its value: those outside of tables first, as TOML wants it."""
    tables = []
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            tables.append((name, field, value))
        else:
            yield (name,), field, value
    for name, field, table in tables:
        yield (name,), field, table
        for key, inner in type(table).model_fields.items():
            yield (name, key), inner, getattr(table, key)


def _line(key: str, value: object) -> str:
    if value is None:
        # TOML has no word for it.
        return f"#{key} ="
    return f"{key} = {_toml(_shown(key, value))}"


def _shown(key: str, value: object) -> object:
    # A password or a token may look like a URL, and must not be shown for it.
    is_hidden = isinstance(value, SecretStr) and key not in SECRET_URLS
    return MASK if is_hidden else mask(value)


def _plain(key: str, value: object) -> object:
    """The value as JSON has it."""
    shown = _shown(key, value)
    return str(shown) if isinstance(shown, Path) else shown


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    # What JSON leaves as it is, though TOML, or a terminal, doesn't take it.
    return re.sub(
        "[\x7f-\x9f\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", json.dumps(str(value), ensure_ascii=False)
    )


def _comment(field: FieldInfo) -> str:
    words = [field.description or ""]
    kind = field.annotation
    if get_origin(kind) is Literal:
        words.append(f"One of {', '.join(map(_toml, get_args(kind)))}.")
    return textwrap.fill(" ".join(words), WIDTH, initial_indent="# ", subsequent_indent="# ") + "\n"
