"""`nametag evaluate` from the file to the table."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from seqeval.metrics import f1_score
from seqeval.scheme import IOB2

from model.checkpoint import Checkpoint, save
from model.corpora import Corpus
from model.data import read_conll
from model.errors import CheckpointError
from model.evaluate import evaluate, predict_corpus
from model.labels import LabelSet
from model.mentions import mention_hashes
from worker.cli import main


def corpus(path: Path) -> Corpus:
    return Corpus(path=str(path))


@pytest.fixture
def raw_file(tmp_path: Path) -> Path:
    """Labels as Twitter-2015 has them: I- without B-, and OTHER for MISC."""
    path = tmp_path / "raw.txt"
    path.write_text(
        "IMGID:1\nAnn\tI-PER\nmet\tO\nBob\tB-PER\n\nx\tB-OTHER\n😁\tI-OTHER\nParis\tI-LOC\n", encoding="utf-8"
    )
    return path


def test_both_scores_are_seqevals(tmp_path: Path, raw_file: Path, small_checkpoint: Callable[..., Checkpoint]) -> None:
    """From the raw file on: lenient on its labels with types renamed, strict on the repaired ones."""
    path = tmp_path / "c.safetensors"
    for seed in range(6):
        checkpoint = small_checkpoint(seed=seed)
        save(replace(checkpoint, labels=LabelSet.of_types(("PER", "MISC"))), path)
        scores = evaluate(path, corpus(raw_file))
        predictions = predict_corpus(path, corpus(raw_file))
        raw = [[tag.replace("OTHER", "MISC") for tag in s.raw_tags] for s in predictions.data.sentences]
        repaired = [list(sentence.tags) for sentence in predictions.data.sentences]
        assert scores.num_repairs == 2
        assert scores.lenient["overall"].f1 == pytest.approx(100 * f1_score(raw, predictions.tags))
        strict = f1_score(repaired, predictions.tags, mode="strict", scheme=IOB2)
        assert scores.strict["overall"].f1 == pytest.approx(100 * strict)
        assert scores.lenient["overall"].num_gold == 4
        assert set(scores.lenient) >= {"overall", "PER", "MISC", "LOC"}


def test_seen_mentions_come_from_files_or_notes(
    tmp_path: Path, small_file: Path, raw_file: Path, small_checkpoint: Callable[..., Checkpoint]
) -> None:
    """The training files and the checkpoint's notes give the same figures; with neither there are none."""
    bare, noted = tmp_path / "bare.safetensors", tmp_path / "noted.safetensors"
    save(small_checkpoint(), bare)
    save(small_checkpoint(notes={"mentions": mention_hashes(read_conll(raw_file).sentences)}), noted)
    told = evaluate(bare, corpus(small_file), [corpus(raw_file)])
    assert told.lenient_familiarity is not None
    assert told.lenient_familiarity == evaluate(noted, corpus(small_file)).lenient_familiarity
    assert told.lenient_familiarity.seen.num_gold == 30
    assert told.lenient_familiarity.unseen.num_gold == 0
    assert evaluate(bare, corpus(small_file)).strict_familiarity is None


def test_the_command_prints_a_table_or_json(
    small_path: Path, small_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`nametag evaluate` prints each type's line with counts and the file's digest; --json the same figures."""
    assert main(["evaluate", str(small_path), str(small_file), "--train", str(small_file)]) == 0
    text = capsys.readouterr().out
    assert main(["evaluate", str(small_path), str(small_file), "--train", str(small_file), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["digest"] == read_conll(small_file).digest
    assert told["digest"][:12] in text
    for name in ("overall", "LOC", "PER", "seen", "unseen", "lenient", "strict"):
        assert name in text
    assert f"{told['lenient']['overall']['f1']:8.2f}" in text


def test_another_tower_is_refused(
    tmp_path: Path, small_file: Path, small_checkpoint: Callable[..., Checkpoint]
) -> None:
    """Features of other weights than those of the training would be scored without a word."""
    path = tmp_path / "c.safetensors"
    save(small_checkpoint("attention"), path)
    with pytest.raises(CheckpointError, match="same weights"):
        evaluate(path, corpus(small_file))
