"""Settings: the file, the variables, and what is said when they are wrong."""

from pathlib import Path

import pytest

from worker.errors import SettingsError
from worker.settings import load_settings


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


def test_a_misspelt_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that means nothing is an error, not silence."""
    monkeypatch.setenv("NAMETAG_KAFKAA__GROUP_ID", "x")
    with pytest.raises(SettingsError, match="NAMETAG_KAFKAA__GROUP_ID"):
        load_settings()


def test_secrets_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """A password shows neither in the settings nor in an error about another field."""
    monkeypatch.setenv("NAMETAG_KAFKA__SASL_PASSWORD", "hunter2")
    assert "hunter2" not in repr(load_settings())
    monkeypatch.setenv("NAMETAG_BATCH__MAX_POSTS", "-1")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert "hunter2" not in str(caught.value)
