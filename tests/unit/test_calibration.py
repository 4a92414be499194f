"""The temperature: fitted to the truth, and written into the checkpoint."""

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from model.calibration import (
    COLDEST,
    HOTTEST,
    PredictedSpans,
    best_temperature,
    calibrate,
    fit_temperature,
    predicted_spans,
    render,
)
from model.checkpoint import Checkpoint, load, save
from model.corpora import Corpus
from model.crf import LinearChainCRF
from model.data import read_conll
from model.errors import DataError
from model.features import ImageFeatures
from worker.cli import main


class Chances(PredictedSpans):
    """Spans whose confidence at temperature T is σ(z / T), without a network."""

    def confidences(self, temperature: float) -> list[float]:
        return [1 / (1 + math.exp(-score / temperature)) for score in SCORES]


SCORES = [random.Random(n).gauss(1, 3) for n in range(20_000)]


@pytest.mark.parametrize("truth", [0.5, 1.0, 2.5])
def test_the_true_temperature_is_found(truth: float) -> None:
    """Spans that are right with σ(z / T): T is found, and the calibration error is then small."""
    chance = random.Random(7)
    correct = [chance.random() < 1 / (1 + math.exp(-score / truth)) for score in SCORES]
    spans = Chances(crf=LinearChainCRF([[True]], [True]), batches=[], correct=correct)
    found = best_temperature(spans)
    assert found == pytest.approx(truth, rel=0.05)
    assert spans.reliability(found).ece < 0.01


@pytest.mark.parametrize(("correct", "bound"), [(True, COLDEST), (False, HOTTEST)])
def test_a_perfect_and_a_useless_tagger_get_a_bound(correct: bool, bound: float) -> None:
    """Where no temperature is best, the search ends at its bound, and not at infinity."""
    spans = Sure(crf=LinearChainCRF([[True]], [True]), batches=[], correct=[correct] * 50)
    assert best_temperature(spans) == pytest.approx(bound, rel=1e-3)


class Sure(PredictedSpans):
    """Spans that are all rather sure."""

    def confidences(self, temperature: float) -> list[float]:
        return [1 / (1 + math.exp(-2 / temperature))] * len(self.correct)


def test_confidences_are_the_served_ones(small_checkpoint: Callable[..., Checkpoint], small_file: Path) -> None:
    """What is fitted are the span marginals of each post alone, as serving has them."""
    checkpoint, data = small_checkpoint(), read_conll(small_file)
    network = checkpoint.build()
    spans = predicted_spans(network, checkpoint.labels, checkpoint.vocabulary, data, ImageFeatures())
    alone = [
        confidence
        for batch in spans.batches
        for row, asked in enumerate(batch.spans)
        for confidence in network.crf.span_marginals(batch.emissions[row][batch.mask[row]], asked, 1.5)
    ]
    assert spans.confidences(1.5) == pytest.approx(alone, abs=1e-9)
    assert len(alone) == len(spans.correct) > 20


def test_the_trainer_can_call_it(small_checkpoint: Callable[..., Checkpoint], small_file: Path) -> None:
    """From a network with gradients to a temperature in range; too few spans leave it at 1."""
    checkpoint, data = small_checkpoint(), read_conll(small_file)
    network = checkpoint.build().train()
    told = fit_temperature(network, checkpoint.labels, checkpoint.vocabulary, data, ImageFeatures())
    assert COLDEST <= told <= HOTTEST
    with torch.no_grad():
        network.crf.start[0] = network.crf.transition[:, 0] = 1e3  # O everywhere
    assert fit_temperature(network, checkpoint.labels, checkpoint.vocabulary, data, ImageFeatures()) == 1.0


def test_the_checkpoint_is_written_anew(small_path: Path, small_file: Path) -> None:
    """A new temperature, noted with the data's digest; a new id; the weights as they were; no other file."""
    old, old_id = load(small_path)
    files = sorted(small_path.parent.iterdir())
    told = calibrate(small_path, Corpus(path=str(small_file)))
    new, new_id = load(small_path)
    assert (told.old_id, told.new_id) == (old_id, new_id)
    assert new_id != old_id
    assert (told.old_temperature, new.temperature) == (1.5, told.temperature)
    assert new.notes["seed"] == 3
    assert new.notes["calibration"]["sha256"] == told.digest
    assert new.versions == old.versions
    assert all(torch.equal(old.state[name], tensor) for name, tensor in new.state.items())
    assert sorted(small_path.parent.iterdir()) == files
    assert f"{old_id} -> {new_id}" in render(told)


def test_a_dry_run_writes_nothing(small_path: Path, small_file: Path) -> None:
    """Measuring a checkpoint leaves it to the byte."""
    before = small_path.read_bytes()
    told = calibrate(small_path, Corpus(path=str(small_file)), dry_run=True)
    assert small_path.read_bytes() == before
    assert told.before == told.after


def test_too_few_names_are_refused(
    tmp_path: Path, small_path: Path, small_checkpoint: Callable[..., Checkpoint]
) -> None:
    """A file that gives next to no predictions isn't fitted on, and the sentence says so."""
    few = tmp_path / "few.txt"
    few.write_text("x\tO\n", encoding="utf-8")
    before = small_path.read_bytes()
    with pytest.raises(DataError, match="20 or more"):
        calibrate(small_path, Corpus(path=str(few)))
    assert small_path.read_bytes() == before


def test_the_command_prints_and_draws(
    tmp_path: Path, small_checkpoint: Callable[..., Checkpoint], small_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`nametag calibrate --plot --json` gives the errors before and after, and an SVG."""
    path, plot = tmp_path / "c.safetensors", tmp_path / "plot.svg"
    save(small_checkpoint(), path)
    assert main(["calibrate", str(path), str(small_file), "--plot", str(plot), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["new_id"] == load(path)[1]
    assert 0 <= told["after"]["ece"] <= 1
    assert f"ECE {told['after']['ece']:.3f}" in "".join(ElementTree.parse(plot).getroot().itertext())
