"""The settings told: `nametag config` and `nametag init`."""

import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from worker.cli import main
from worker.errors import SettingsError
from worker.settings import STARTER_CHECKPOINT, Settings, Table
from worker.settings_loading import load_settings, load_with_origins
from worker.settings_report import MASK, describe, mask, template


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have settings of their own."""
    for name in os.environ:
        if name.upper().startswith("NAMETAG_"):
            monkeypatch.delenv(name)


def every_key() -> set[str]:
    keys: set[str] = set()
    for name, field in Settings.model_fields.items():
        is_table = isinstance(field.annotation, type) and issubclass(field.annotation, Table)
        keys |= {f"{name}.{key}" for key in field.annotation.model_fields} if is_table else {name}  # type: ignore[union-attr]
    return keys


def flat(values: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for name, value in values.items():
        found |= {f"{name}.{key}": inner for key, inner in value.items()} if isinstance(value, dict) else {name: value}
    return found


def test_each_setting_has_its_origin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Default, file, variable, and a variable for a whole table: each is told, the variable's value in force."""
    path = tmp_path / "nametag.toml"
    path.write_text('device = "cuda"\n[kafka]\ngroup_id = "file"\nposts_topic = "p"\n[batch]\nmax_posts = 3\n')
    monkeypatch.setenv("NAMETAG_KAFKA__GROUP_ID", "variable")
    monkeypatch.setenv("NAMETAG_BATCH", '{"max_images": 7}')
    assert main(["config", "--config", str(path)]) == 0
    told = dict(re.findall(r"^#?(\w+ =.*?) +# (\S+)$", capsys.readouterr().out, re.MULTILINE))
    assert told['device = "cuda"'] == str(path)
    assert told['group_id = "variable"'] == "NAMETAG_KAFKA__GROUP_ID"
    assert told['posts_topic = "p"'] == str(path)
    assert told["max_posts = 3"] == str(path)
    assert told["max_images = 7"] == "NAMETAG_BATCH"
    assert told["max_padded_tokens = 4096"] == told["sasl_password ="] == "default"
    assert len(told) == len(every_key())


def test_programs_are_told_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each setting with its value as JSON has it, and its origin; no secret."""
    path = tmp_path / "nametag.toml"
    path.write_text('[kafka]\ngroup_id = "file"\n[images]\nallow_origins = ["http://b", "http://a"]\n')
    monkeypatch.setenv("NAMETAG_REDIS__URL", "redis://me:hush@host:1/0")
    monkeypatch.setenv("NAMETAG_SERVER__TOKEN", "hush://hush.hush/hush")
    assert main(["config", "--json", "--config", str(path)]) == 0
    told = capsys.readouterr().out
    assert "hush" not in told
    settings = {each["name"]: each for each in json.loads(told)["settings"]}
    assert set(settings) == every_key()
    for name, value, source in (
        ("checkpoint", str(STARTER_CHECKPOINT), "default"),
        ("trace", False, "default"),
        ("kafka.group_id", "file", str(path)),
        ("kafka.sasl_password", None, "default"),
        ("images.allow_origins", ["http://a", "http://b"], str(path)),
        ("redis.url", f"redis://me:{MASK}@host:1/0", "NAMETAG_REDIS__URL"),
        ("server.token", MASK, "NAMETAG_SERVER__TOKEN"),
    ):
        assert settings[name] == {"name": name, "value": value, "source": source}


def test_what_is_shown_can_be_loaded(tmp_path: Path) -> None:
    """Without secrets in them, the settings shown are a file that gives the same settings."""
    before = load_settings()
    path = tmp_path / "shown.toml"
    path.write_text(describe(before, {}))
    assert load_settings(path) == before


def test_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Passwords stay out of sight, in URLs as well; who logs in, and where, is shown."""
    monkeypatch.setenv("NAMETAG_KAFKA__SASL_PASSWORD", "hush1")
    monkeypatch.setenv("NAMETAG_REDIS__URL", "rediss://user:hush2@cache:6380/1?ssl_ca_certs=ca.pem&ssl_password=hush3")
    monkeypatch.setenv("NAMETAG_REDIS__DELETES_URL", "redis://:hush6@marks/0")
    monkeypatch.setenv("NAMETAG_IMAGES__PROXY", "http://me:hush4@proxy:3128")
    monkeypatch.setenv("NAMETAG_IMAGES__CONTACT", "https://me:hush5@example.org")
    assert main(["config"]) == 0
    told = capsys.readouterr().out
    assert "hush" not in told
    assert f'url = "rediss://user:{MASK}@cache:6380/1?ssl_ca_certs=ca.pem&ssl_password={MASK}"' in told
    assert f'deletes_url = "redis://:{MASK}@marks/0"' in told
    assert f'proxy = "http://me:{MASK}@proxy:3128"' in told


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host:1/0", "redis://host:1/0"),
        ("redis://:hush@host", f"redis://:{MASK}@host"),
        ("redis://hush@host", f"redis://{MASK}@host"),
        ("unix://me:hush@/run/redis.sock", f"unix://me:{MASK}@/run/redis.sock"),
        ("redis://me:hu/sh@host", MASK),
        ("redis://me:1/hush@host", MASK),
        ("redis://me:1#hush@host", MASK),
        ("redis://me:1?hush@host", MASK),
        ("redis://me:hu@sh@host", MASK),
        ("redis://[hush@host", MASK),
        ("redis://host:hush", MASK),
        ("redis://host/0?password=hush", f"redis://host/0?password={MASK}"),
        ("hush", MASK),
    ],
)
def test_a_url_is_shown_only_where_its_password_is_sure(url: str, shown: str) -> None:
    """What isn't written as a URL should be is masked whole."""
    assert mask(SecretStr(url)) == shown


@pytest.mark.parametrize("variable", ["NAMETAG_KAFKA__SASL_PASSWORD", "NAMETAG_SERVER__TOKEN"])
def test_a_secret_that_looks_like_a_url_is_masked(
    variable: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is a secret all the same."""
    monkeypatch.setenv(variable, "https://hush.example/hush")
    assert main(["config"]) == 0
    assert "hush" not in capsys.readouterr().out


LINE = re.compile("(?m)^#(?P<key>[a-z_]+) = .+?(?P<example>  # an example; no default)?$")
"""A setting of the file, commented out."""


def test_the_file_to_begin_with_has_every_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with its description and its default, whatever the variables say; the file loads, and changes nothing."""
    monkeypatch.setenv("NAMETAG_KAFKA__GROUP_ID", "mine")
    text = template()
    assert "mine" not in text
    assert set(flat(tomllib.loads(LINE.sub(lambda found: found[0][1:], text)))) == every_key()
    assert "# How many seconds a post waits for its picture" in text
    assert tomllib.loads(text) == {"kafka": {}, "redis": {}, "images": {}, "batch": {}, "checkpoints": {}, "server": {}}


def test_the_file_loads_commented_and_uncommented(tmp_path: Path) -> None:
    """As it is, and with every line taken in that has a default: both give the defaults."""
    path = tmp_path / "nametag.toml"
    assert main(["init", str(path)]) == 0
    assert load_settings(path) == load_settings()
    path.write_text(LINE.sub(lambda found: found[0] if found["example"] else found[0][1:], path.read_text()))
    settings, origins = load_with_origins(path)
    assert settings == load_settings()
    assert len([where for where in origins.values() if where == str(path)]) > 40


def test_each_line_is_a_setting_when_it_is_uncommented(tmp_path: Path) -> None:
    """Each alone: TOML, and taken, but for two examples that are refused with what they must be.

    A picture folder that isn't here, and a token that everybody would know.
    """
    text, path = template(), tmp_path / "nametag.toml"
    refused = {}
    lines = list(LINE.finditer(text))
    for line in lines:
        path.write_text(text[: line.start()] + text[line.start() + 1 :])
        ((setting, value),) = flat(
            {name: inner for name, inner in tomllib.loads(path.read_text()).items() if inner != {}}
        ).items()
        assert setting.endswith(line["key"])
        try:
            assert load_with_origins(path)[1][tuple(setting.split("."))] == str(path), value
        except SettingsError as error:
            refused[setting] = str(error)
    assert len(lines) == len(every_key())
    assert set(refused) == {"images.directory", "server.token"}
    assert "must be a directory that is there" in refused["images.directory"]
    assert "must be 16 or more" in refused["server.token"]


def test_what_excludes_each_other_says_so() -> None:
    """Who takes both lines in is refused, and could know it from the file."""
    text = template()
    for key, other in (("watch", "watch_key"), ("watch_key", "watch"), ("cluster", "sentinels")):
        (comment,) = re.findall(rf"(?m)((?:^# .*\n)+)#{key} = ", text)
        assert f"{other}." in comment


def test_the_file_is_not_overwritten_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What stands there stays, until `--force`; a folder that isn't there is told."""
    path = tmp_path / "nametag.toml"
    path.write_text('device = "cuda"\n')
    assert main(["init", str(path)]) == 1
    assert "--force" in capsys.readouterr().err
    assert path.read_text() == 'device = "cuda"\n'
    assert main(["init", str(path), "--force"]) == 0
    assert path.read_text() == template()
    assert main(["init", str(tmp_path / "none" / "nametag.toml")]) == 1
    assert "can't be written (No such file or directory)" in capsys.readouterr().err


def test_the_file_goes_to_standard_output(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With `-` nothing is written to disk."""
    monkeypatch.chdir(tmp_path)
    assert main(["init", "-"]) == 0
    assert capsys.readouterr().out == template()
    assert not list(tmp_path.iterdir())


def test_hostile_values_are_shown_as_harmless_toml(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Control characters don't reach the terminal, and what is shown means the same."""
    monkeypatch.setenv("NAMETAG_KAFKA__GROUP_ID", 'a"\\\x1b[31m\x7f\x9b😀\n')
    told = describe(load_settings(), {})
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", told)
    assert tomllib.loads(told)["kafka"]["group_id"] == 'a"\\\x1b[31m\x7f\x9b😀\n'
