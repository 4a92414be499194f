"""Settings: the file, the variables, and what is said when they are wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from worker.errors import SettingsError
from worker.settings import BatchTable, ImagesTable, KafkaTable, RedisTable, ServerTable, Settings
from worker.settings_loading import load_settings


def test_a_variable_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable wins, the rest of the file's table stays."""
    path = tmp_path / "nametag.toml"
    path.write_text('[kafka]\nbootstrap_servers = "a:1"\ngroup_id = "file"\n')
    monkeypatch.setenv("NAMETAG_KAFKA__GROUP_ID", "variable")
    settings = load_settings(path)
    assert (settings.kafka.bootstrap_servers, settings.kafka.group_id) == ("a:1", "variable")


@pytest.mark.parametrize(
    ("toml", "told"),
    [
        ("[batch]\nmax_posts = 0\n", "batch.max_posts"),
        ("[kafka]\nbootstrap_server = 'a'\n", "kafka.bootstrap_server"),
        ("device = [\n", "no TOML"),
    ],
)
def test_a_wrong_file_is_named_with_its_field(tmp_path: Path, toml: str, told: str) -> None:
    """The error names the file and the field."""
    path = tmp_path / "nametag.toml"
    path.write_text(toml)
    with pytest.raises(SettingsError, match=told) as caught:
        load_settings(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("toml", "told"),
    [
        ("[kafka]\nbootstrap_server = 'a'\n",
         "kafka.bootstrap_server (FILE) is no setting; did you mean bootstrap_servers?"),
        ("[kafkaa]\ngroup_id = 'a'\n", "kafkaa (FILE) is no setting; did you mean kafka?"),
        ("[batch]\nxyz = 1\n", "batch.xyz (FILE) is no setting; the keys are max_posts, max_padded_tokens, max_images"),
        ("[batch]\nmax_posts = 0\n", "batch.max_posts (FILE) must be greater than 0"),
        ("batch = 3\n", "batch (FILE) must be a table"),
    ],
)  # fmt: skip
def test_a_wrong_key_is_told_with_the_right_one(tmp_path: Path, toml: str, told: str) -> None:
    """The sentence names the key, the file, and the nearest right key."""
    path = tmp_path / "nametag.toml"
    path.write_text(toml)
    with pytest.raises(SettingsError) as caught:
        load_settings(path)
    assert str(caught.value) == "the settings are wrong: " + told.replace("FILE", str(path))


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("NAMETAG_KAFKA_GROUP_ID", "x", "did you mean NAMETAG_KAFKA__GROUP_ID, with two underscores"),
        ("NAMETAG_MAX__POST_BYTES", "9", "did you mean NAMETAG_MAX_POST_BYTES"),
        ("NAMETAG_KAFKAA__GROUP_ID", "x", "NAMETAG_KAFKAA__GROUP_ID; did you mean NAMETAG_KAFKA__GROUP_ID?"),
        ("NAMETAG_KAFKA__BOOTSTRAP_SERVER", "x", "did you mean NAMETAG_KAFKA__BOOTSTRAP_SERVERS?"),
        ("NAMETAG_DEVICE__NAME", "x", "no such setting: NAMETAG_DEVICE__NAME"),
        ("NAMETAG_FOO", "1", "no such setting: NAMETAG_FOO; unset it, or look for the right one in `nametag init -`"),
        ("NAMETAG_SERVER__QWX", "x", "no such setting: NAMETAG_SERVER__QWX; the table's keys are host, port, token"),
        ("NAMETAG_KAFKA", "nojson", 'NAMETAG_KAFKA stands for a whole table, so it must be a JSON object such as '
         '{"bootstrap_servers": "localhost:9092"}; one key alone is set with NAMETAG_KAFKA__BOOTSTRAP_SERVERS'),
        ("NAMETAG_REDIS", "[1]", 'NAMETAG_REDIS stands for a whole table, so it must be a JSON object such as {"url"'),
        ("NAMETAG_CHECKPOINTS", "[1]", 'a JSON object such as {"watch": "current.safetensors"}; one key'),
        ("NAMETAG_KAFKA", '{"group": "x"}', "kafka.group (NAMETAG_KAFKA) is no setting; did you mean group_id?"),
        ("NAMETAG_BATCH__MAX_POSTS", "many", "batch.max_posts (NAMETAG_BATCH__MAX_POSTS) must be a valid integer"),
        ("NAMETAG_LOG_FORMAT", "xml", "log_format (NAMETAG_LOG_FORMAT) must be 'text' or 'json'"),
        ("NAMETAG_LOG_LEVEL", "INFO", "log_level (NAMETAG_LOG_LEVEL) must be 'debug', 'info', 'warning' or 'error'"),
        ("NAMETAG_IMAGES__ALLOW_ORIGINS", '["http://a', "images.allow_origins (NAMETAG_IMAGES__ALLOW_ORIGINS) must be "
         "origins separated by commas, or a JSON list"),
        ("NAMETAG_IMAGES__ALLOW_ORIGINS", "cdn.example", "must be origins such as http://127.0.0.1:8000"),
        ("NAMETAG_IMAGES__ALLOW_ORIGINS", "http://[", "must be origins such as http://127.0.0.1:8000"),
        ("NAMETAG_IMAGES__ALLOW_ORIGINS", "http://h:x", "must be origins such as http://127.0.0.1:8000"),
    ],
)  # fmt: skip
def test_a_wrong_variable_is_told_in_one_sentence(
    variable: str, value: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sentence names the variable and what is wanted of it, without quoting its value."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "value", ["http://127.0.0.1:8000, https://cdn.example", '["http://127.0.0.1:8000", "https://cdn.example"]']
)
def test_origins_are_a_list_either_way(value: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Allowed origins come separated by commas, or as a JSON list; in a file as a list."""
    path = tmp_path / "nametag.toml"
    path.write_text("[images]\nallow_origins = ['http://file']\n")
    assert load_settings(path).images.allow_origins == {"http://file"}
    monkeypatch.setenv("NAMETAG_IMAGES__ALLOW_ORIGINS", value)
    assert load_settings(path).images.allow_origins == {"http://127.0.0.1:8000", "https://cdn.example"}


def test_a_whole_table_comes_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table's variable is a JSON object, and one key's variable wins over it."""
    monkeypatch.setenv("NAMETAG_KAFKA", '{"group_id": "table", "posts_topic": "p"}')
    monkeypatch.setenv("NAMETAG_KAFKA__GROUP_ID", "key")
    kafka = load_settings().kafka
    assert (kafka.group_id, kafka.posts_topic) == ("key", "p")


def test_every_setting_is_described() -> None:
    """Each setting says in a sentence what it is, and a limit in which unit."""
    units = ("_seconds", "_bytes", "_posts", "_tokens", "_images")
    for table in (Settings, KafkaTable, RedisTable, ImagesTable, BatchTable, ServerTable):
        for name, field in table.model_fields.items():
            description = field.description or ""
            assert description.endswith("."), name
            if name.endswith(units):
                unit = name.rpartition("_")[2].replace("images", "pictures")
                assert unit in description, name


@pytest.mark.parametrize("command", [["demo"], ["worker"]])
def test_wrong_settings_are_told_before_torch_is_imported(command: list[str]) -> None:
    """A typing mistake in a variable is told at once, in one line."""
    code = f"import sys, worker.cli\nrc = worker.cli.main({command!r})\nassert 'torch' not in sys.modules\nsys.exit(rc)"
    environment = {**os.environ, "NAMETAG_IMAGES__ALLOW_ORIGIN": "http://127.0.0.1:8000"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    told = "no such setting: NAMETAG_IMAGES__ALLOW_ORIGIN; did you mean NAMETAG_IMAGES__ALLOW_ORIGINS?"
    assert done.stderr == f"nametag: {told}\n"


def test_secrets_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """A password shows neither in the settings nor in an error about another field."""
    monkeypatch.setenv("NAMETAG_KAFKA__SASL_PASSWORD", "hunter2")
    assert "hunter2" not in repr(load_settings())
    monkeypatch.setenv("NAMETAG_BATCH__MAX_POSTS", "-1")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"cluster": True}, "needs its url"),
        ({"sentinels": ["s:26379"]}, "needs its url"),
        ({"url": "redis://h", "cluster": True, "sentinels": ["s:26379"]}, "not both"),
    ],
)
def test_a_kind_of_redis_that_can_not_be_meant_is_refused(
    table: dict[str, object], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not taken for the cache in memory, nor for one of the two."""
    monkeypatch.setenv("NAMETAG_REDIS", json.dumps(table))
    with pytest.raises(SettingsError, match=told):
        load_settings()
