"""Settings and places that can't be: told at once, by name, in one line."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from model.errors import DataError, OutputError
from model.train import TrainConfig, train


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("batch_size = 0", "batch_size must be at least 1, not 0"),
        ("optimiser = 'adam'", "optimiser must be sgd or adamw, not 'adam'"),
        ("average = 1.5", r"average must be in \[0, 1\], not 1.5"),
        ("learning_rate = 0", "learning_rate must be above 0"),
        ("colour = 'red'", "colour"),
        ("batch_size = '20'", "train.toml: batch_size must be a whole number, not '20'"),
        ("batch_size = 20.0", "batch_size must be a whole number, not 20.0"),
        ("hidden = true", "hidden must be a whole number, not True"),
        ("hidden = 0", "hidden must be at least 1, not 0"),
        (f"max_epochs = 1{'0' * 400}", "max_epochs must be a whole number, not 10000"),
        (f"learning_rate = 1{'0' * 400}", "learning_rate must be a number, not 10000"),
        ("learning_rate = nan", "learning_rate must be a number, not nan"),
        ("learning_rate = inf", "learning_rate must be finite"),
        ("decay = -1", "decay must not be below 0"),
        ("dropout = [0.5]", r"dropout must be a number, not \[0.5\]"),
        ("dropout = 1.0", r"dropout must be in \[0, 1\), not 1.0"),
        ("half = 1", "half must be true or false, not 1"),
        ("half = 2020-01-01", r"half must be true or false, not datetime.date\(2020, 1, 1\)"),
        ("images = 3", "images must be a text, not 3"),
        ('images = "a\\u0000b"', "images must be a text, not 'a.x00b'"),
        ("learning = [1]", r"learning must be a list, each a text, not \(1,\)"),
        ("learning = 'emit'", "learning must be a list, each a text, not 'emit'"),
        ("variant = 'attention_gates'", "variant must be one of blstm_crf, .*, not 'attention_gates'"),
        ("image_state = 'h1'", "image_state must be both, h0 or c0, not 'h1'"),
        (f"seed = {'[' * 5000}", "nested too deeply"),
        ("[[train]]\npath = 3", "a corpus's path must be a text, not 3"),
        ("[[train]]\npath = 'x'\nformat = ['conll']", "a corpus's format must be a text"),
        ("[[train]]\npath = 'x'\nrepeat = 0", "a corpus's repeat must be at least 1, not 0"),
        ("[[train]]\nfile = 'x'", "a corpus has path, format, images, guideline and repeat, not file"),
        ("[[train]]\npath = 'x'\nformat = 'y'", "no corpus has the format 'y'; there are conll"),
    ],
)
def test_bad_settings(tmp_path: Path, setting: str, message: str) -> None:
    """A setting out of its range is named, with the range."""
    given = "valid = 'v'\nout = 'o'\n" + ("" if "[[train]]" in setting else "train = 't'\n")
    (tmp_path / "train.toml").write_text(given + setting, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        TrainConfig.from_toml(tmp_path / "train.toml")


def test_a_list_of_files_is_no_list_of_corpora(tmp_path: Path) -> None:
    """What must stand there instead is told."""
    (tmp_path / "train.toml").write_text("train = ['a.txt']\nvalid = 'v'\nout = 'o'\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"tables \[\[train\]\], not a list with 'a.txt'"):
        TrainConfig.from_toml(tmp_path / "train.toml")


def test_a_scheme_that_is_none_is_told_at_once(config: TrainConfig) -> None:
    """And not after an epoch."""
    with pytest.raises(DataError, match=r"scheme must be owoputi or .*, not 'foo'"):
        replace(config, scheme="foo")


def test_an_out_that_can_not_be_is_told_at_once(config: TrainConfig, tmp_path: Path) -> None:
    """A folder, a place under a file, and the data itself; before anything is read."""
    with pytest.raises(OutputError, match="is a folder; name a file"):
        train(replace(config, out=str(tmp_path)))
    with pytest.raises(OutputError, match=r"can't be written \((File exists|Not a directory)\); name another place"):
        train(replace(config, out=f"{config.train}/out.safetensors"))
    with pytest.raises(DataError, match=r"out would replace .*train\.txt"):
        train(replace(config, out=str(config.train)))


def test_features_that_can_not_be_kept(config: TrainConfig, with_tower: Callable[[TrainConfig], TrainConfig]) -> None:
    """A file in the place of the folder is told."""
    with pytest.raises(OutputError, match="can't be written"):
        train(replace(with_tower(config), tower_rate=0, features=str(config.train)))


def test_a_network_that_is_too_large_is_told(config: TrainConfig) -> None:
    """And not with the allocator's words."""
    with pytest.raises(DataError, match=r"this machine can't hold a network of .*make it smaller"):
        train(replace(config, hidden=10**9))
