"""The model card: complete, readable, and the same for programs."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from model.card import read_card, render
from model.checkpoint import Checkpoint, load, save
from model.data import read_conll
from model.mentions import mention_hashes
from worker.cli import main
from worker.settings import STARTER_CHECKPOINT


def test_the_card_tells_everything(
    tmp_path: Path, small_checkpoint: Callable[..., Checkpoint], small_file: Path
) -> None:
    """Configuration, vocabulary, labels, scheme, tower, digests, seeds, scores, temperature and versions."""
    notes = {
        "train": [{"file": "a.txt", "sha256": "1234"}, {"file": "b.txt", "sha256": "5678"}],
        "settings": {"seed": 7},
        "lenient_f1": 81.25,
        "strict_f1": 81.0,
        "mentions": mention_hashes(read_conll(small_file).sentences),
    }
    path = tmp_path / "card.safetensors"
    identity = save(small_checkpoint("attention_gate", temperature=1.25, notes=notes), path)
    card = read_card(path)
    assert (card.checkpoint_id, card.num_words, card.num_characters) == (identity, 6, 15)
    assert card.labels == ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
    assert card.num_mentions == 3
    assert card.num_bytes == path.stat().st_size
    assert card.num_parameters == sum(card.weights.values()) == sum(t.numel() for t in load(path)[0].state.values())
    text = render(card)
    for told in (identity, "PER, LOC", "twitter2017", "efficientnet_lite0 (d)", "1.250", "81.25", "1234", "5678"):
        assert told in text
    assert "variant" in text
    assert "torch" in text
    assert notes["mentions"] not in text


def test_what_a_trainer_told_can_not_command_the_terminal(
    tmp_path: Path, small_checkpoint: Callable[..., Checkpoint]
) -> None:
    """Whatever stands in the notes is shown, and obeyed by nothing."""
    path = tmp_path / "card.safetensors"
    save(small_checkpoint(notes={"\x1b]0;owned\x07": "\x1b[31mred", "part": {"\x1b[2J": "\x9b1m"}}), path)
    text = render(read_card(path))
    assert "owned" in text and "red" in text
    assert not {"\x1b", "\x07", "\x9b"} & set(text)


def test_a_text_only_checkpoint_names_no_tower(small_path: Path) -> None:
    """A variant that looks at no picture has no tower to tell of."""
    card = read_card(small_path)
    assert card.tower is None
    assert card.tower_digest is None
    assert "looks at pictures     no" in render(card)


def test_the_command_prints_the_shipped_card(capsys: pytest.CaptureFixture[str]) -> None:
    """`nametag inspect` prints a card for people, and with --json one for programs, of the same checkpoint."""
    assert main(["inspect", str(STARTER_CHECKPOINT)]) == 0
    text = capsys.readouterr().out
    assert main(["inspect", str(STARTER_CHECKPOINT), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["checkpoint_id"] in text
    assert told["config"]["variant"] in text


def test_a_bad_file_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What isn't a checkpoint ends in one line on standard error, and status 1."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"nothing")
    assert main(["inspect", str(path)]) == 1
    assert capsys.readouterr().err.count("\n") == 1
