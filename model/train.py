"""The trainer, from top to bottom: data, model, optimiser, loop (section 4.1)."""

import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from model.batching import make_batches
from model.calibration import fit_temperature
from model.checkpoint import Checkpoint, load, save
from model.distributed import Ranks, joined_ranks
from model.errors import CheckpointError, DataError, TrainingError
from model.evaluate import lenient_spans, mention_hashes, predict, score, strict_spans
from model.features import ImageFeatures, load_pixels
from model.guidelines import GuidelineLoss
from model.labels import spans_of
from model.optimisation import WeightAverage, build_optimiser, learning_rate, set_learning_rate
from model.reporting import TrainingReport
from model.resume import ResumeFile, Standing, seed_epoch
from model.tagger import NameTagger
from model.tokenizer import Scheme
from model.tower import LearningTower, Tower
from model.tower_file import remove_other_towers, tower_of, write_tower
from model.training_config import TrainConfig
from model.training_data import TrainingData, read_training_data
from model.whole_file import check_writable

__all__ = ["TrainConfig", "TrainResult", "learning_rate", "train"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """Where the checkpoint is, and how good it was on the validation set; epochs are numbered from 0."""

    path: str
    best_f1: float
    best_epoch: int
    num_epochs: int
    losses: tuple[float, ...] = ()
    """The mean loss of each epoch that this run trained."""

    def __str__(self) -> str:
        return f"{self.path}: valid F1 {self.best_f1:.2f} at epoch {self.best_epoch} of {self.num_epochs}"


def train(config: TrainConfig, *, resume: bool = False) -> TrainResult:
    """Train, stop early on the validation set's entity F1, write the best to `config.out`.

    With `resume` an interrupted training goes on where its last whole epoch ended. Ctrl-C ends the training and
    keeps the best so far. Under torchrun all processes call this, and the first one writes.
    A loss that is no number any more ends it too, with an error. Raises `DataError`, `CheckpointError`,
    `OutputError` or `TrainingError`.
    """
    log = None if config.log is None else Path(config.log)
    with joined_ranks() as ranks, TrainingReport(log, enabled=ranks.is_first) as report:
        if ranks.is_first:
            _check_out(config)
        seed_epoch(config.seed, -1, 0)
        training = _Training(config, read_training_data(config, report), ranks, report)
        if resume:
            training.resume()
        losses: list[float] = []
        is_whole, failure = False, None
        try:
            training.run(losses)
            is_whole = True
        except KeyboardInterrupt:
            if training.standing.best_f1 < 0:
                raise
            report.say("interrupted: the best so far is kept; --resume goes on where the last whole epoch ended")
        except TrainingError as error:
            if training.standing.best_f1 < 0:
                raise
            failure = error
        if ranks.is_first:
            training.calibrate()
            if is_whole:
                # The last, so that whatever cuts the end off leaves something to resume.
                training.resume_file.remove()
    standing = training.standing
    if failure is not None:
        kept = f"epoch {standing.best_epoch}, valid F1 {standing.best_f1:.2f}"
        raise TrainingError(f"{failure}; {config.out} keeps the best so far ({kept})") from failure
    return TrainResult(
        path=config.out,
        best_f1=standing.best_f1,
        best_epoch=standing.best_epoch,
        num_epochs=standing.num_epochs,
        losses=tuple(losses),
    )


def _check_out(config: TrainConfig) -> None:
    """Whether the checkpoint can be written, and in the place of nothing that is read."""
    out = Path(config.out)
    check_writable(out)
    read = (*(corpus.path for corpus in config.corpora), config.valid_corpus.path, config.embeddings)
    for path in read:
        if path is not None and out.exists() and Path(path).exists() and out.samefile(path):
            raise DataError(f"out would replace {path}, which the training reads; name another file")


def build_network(config: TrainConfig, data: TrainingData) -> NameTagger:
    """The network that `config` asks for, with the words' vectors or the weights of the checkpoint to start from.

    Raises `DataError` where `learning` names a part that the network hasn't, or where it is too large.
    """
    tagger = config.network(data.region_width)
    try:
        network = NameTagger(tagger, data.labels, data.vocabulary.num_words, data.vocabulary.num_characters)
    except (RuntimeError, MemoryError) as error:
        raise DataError(f"this machine can't hold a network of {tagger}; make it smaller") from error
    data.fill(network.words)
    if data.start is not None:
        if data.start.config != tagger:
            raise DataError(f"the checkpoint to start from is of {data.start.config}, not of {tagger}")
        renewed = set(config.learning) if config.afresh else set()
        kept = {n: w for n, w in data.start.build().state_dict().items() if n.partition(".")[0] not in renewed}
        network.load_state_dict(kept, strict=False)
    parts = dict(network.named_children())
    if unknown := set(config.learning).difference(parts):
        raise DataError(f"learning names {', '.join(sorted(unknown))}; the network has {', '.join(parts)}")
    for name, weight in network.named_parameters():
        weight.requires_grad_(not config.learning or name.partition(".")[0] in config.learning)
    return network


class _Training:
    """Model, optimiser and standing of one training, and its loop."""

    def __init__(self, config: TrainConfig, data: TrainingData, ranks: Ranks, report: TrainingReport) -> None:
        self._config = config
        self._data = data
        self._ranks = ranks
        self._report = report
        self._encoder = data.encoder(config)
        self._network = build_network(config, data)
        self._tower = LearningTower(data.tower) if data.tower is not None and config.tower_rate else None
        if config.bf16 and not ranks.has_bf16:
            report.say("this device has no bf16: the training is in fp32")
        bf16 = config.bf16 and ranks.has_bf16
        module = GuidelineLoss(self._network, data.labels, data.guidelines, tower=self._tower, bf16=bf16)
        module.to(ranks.device)
        # Before wrapping: DistributedDataParallel must know which weights learn.
        self._optimiser = build_optimiser(config, module, self._network.words, self._tower)
        self._module = ranks.wrap(module, has_unused=len(data.guidelines) > 1 or self._tower is not None)
        self._average = WeightAverage(self._network.parameters(), config.average) if config.average else None
        self.resume_file = ResumeFile(config, data.digests, module, self._optimiser, self._average)
        self.standing = Standing()

    def resume(self) -> None:
        """Go on where the last whole epoch ended. Raises `CheckpointError` where that can't be done."""
        self.standing = self.resume_file.read()
        if not Path(self._config.out).is_file():
            raise CheckpointError(f"{self._config.out}, the best so far, is gone; train without --resume")

    def run(self, losses: list[float]) -> None:
        """Train to the end; `losses` takes the mean loss of each epoch."""
        config, report = self._config, self._report
        report.begin(self.standing.num_epochs, config.max_epochs)
        for epoch in range(self.standing.num_epochs, config.max_epochs):
            # At the head, so that a training which was cut off at its end doesn't resume past it.
            if epoch and epoch - 1 - self.standing.best_epoch >= config.patience:
                break
            started = time.monotonic()
            rate = learning_rate(config, epoch)
            losses.append(self._run_epoch(epoch, rate))
            f1 = self._ranks.agree(self._validate(epoch) if self._ranks.is_first else 0.0)
            seconds = time.monotonic() - started
            report.epoch_done(epoch, loss=losses[-1], f1=f1, rate=rate, seconds=seconds)

    def calibrate(self) -> None:
        """Fit the kept checkpoint's temperature on the validation set, and write it anew."""
        path = Path(self._config.out)
        kept, _ = load(path)
        # The tower of the best epoch: that of the last has learnt on.
        features = self._valid_features(None if self._tower is None else tower_of(kept, path))
        temperature = fit_temperature(kept.build(), kept.labels, kept.vocabulary, self._data.valid, features)
        save(replace(kept, temperature=temperature), path)
        remove_other_towers(path, kept.tower_digest, spared=Path(self._config.tower_weights))

    def _run_epoch(self, epoch: int, rate: float) -> float:
        """The mean loss of a post over an epoch."""
        self._module.train()
        set_learning_rate(self._optimiser, rate)
        chance = seed_epoch(self._config.seed, epoch, self._ranks.rank)
        batches = make_batches(self._data.posts, self._config.batch_size, chance)
        total = torch.zeros((), device=self._ranks.device)
        for step, posts in enumerate(batches, start=1):
            own, weight = self._ranks.share(posts)
            loss = self._module(self._encoder.encode(own).to(self._ranks.device)).mean() * weight
            self._optimiser.zero_grad()
            loss.backward()
            # Of all processes' gradients, so that all of them stop.
            if not torch.nn.utils.clip_grad_norm_(self._module.parameters(), self._config.clip).isfinite():
                raise TrainingError(
                    f"epoch {epoch}, step {step} of {len(batches)}: the loss is no finite number any more; try a "
                    f"lower learning_rate than {self._config.learning_rate:g}, or a lower clip"
                )
            self._optimiser.step()
            if self._average is not None:
                self._average.update()
            total += loss.detach() * len(posts)
            self._report.batch_done(1 / len(batches))
        return float(self._ranks.average(total)) / len(self._data.posts)

    def _validate(self, epoch: int) -> float:
        """The validation set's F1; keeps the checkpoint if it is the best, and the resume file anyway."""
        with nullcontext() if self._average is None else self._average.in_place():
            f1, strict_f1 = self._valid_f1s()
            # Of epochs that are equally good the first: one that is no better doesn't renew the patience.
            if f1 > self.standing.best_f1:
                best = replace(self.standing, best_f1=f1, best_epoch=epoch)
                self._save(best, strict_f1)
                # Afterwards: whoever is interrupted amid the writing still has the best before.
                self.standing = best
        self.standing = replace(self.standing, num_epochs=epoch + 1)
        self.resume_file.write(self.standing)
        return f1

    def _valid_f1s(self) -> tuple[float, float]:
        """Lenient and strict F1 of the validation set."""
        data = self._data
        features = self._valid_features(None if self._tower is None else self._tower.tower)
        # `predict` works where the network is; the features are on the CPU.
        predicted = predict(self._network, data.labels, data.vocabulary, data.valid, features)
        gold = [spans_of(sentence.tags) for sentence in data.valid.sentences]
        lenient, strict = ([read(tags) for tags in predicted] for read in (lenient_spans, strict_spans))
        return score(gold, lenient)["overall"].f1, score(gold, strict)["overall"].f1

    def _valid_features(self, tower: Tower | None) -> ImageFeatures:
        """The features of the validation set's pictures as `tower` sees them, None for the frozen one."""
        if tower is None:
            return self._data.features
        files = self._data.features.files
        names = [s.image_id for s in self._data.valid.sentences if s.image_id is not None and s.image_id in files]
        seen = ImageFeatures()
        tower.to(self._ranks.device)
        for name in names:
            pixels = torch.from_numpy(load_pixels(files[name])).unsqueeze(0).to(self._ranks.device)
            seen.by_id[name] = tower(pixels)[0].cpu()
        return seen

    def _save(self, standing: Standing, strict_f1: float) -> None:
        config, data, out = self._config, self._data, Path(self._config.out)
        # Only the packages' own weights are where the checkpoint goes.
        if data.tower is not None and (self._tower is not None or config.tower_weights != "default"):
            write_tower(data.tower, out)
        state = self._network.state_dict()
        vocabulary, state["words.weight"] = data.with_frequent_words(state["words.weight"])
        checkpoint = Checkpoint(
            config=self._network.config,
            labels=data.labels,
            vocabulary=vocabulary,
            scheme=Scheme(config.scheme),
            tower=config.tower,
            tower_digest="" if data.tower is None else data.tower.digest,
            state={name: tensor.half() if config.half else tensor for name, tensor in state.items()},
            notes=_notes(config, data, standing, strict_f1),
        )
        save(checkpoint, out)
        # What the training starts from, a resumed one needs as well.
        remove_other_towers(out, checkpoint.tower_digest, spared=Path(config.tower_weights))


def _notes(config: TrainConfig, data: TrainingData, standing: Standing, strict_f1: float) -> dict[str, Any]:
    # Where the files were is nobody's business; what they were, their digests say.
    paths = ("train", "valid", "out", "images", "features", "log", "start", "embeddings", "tower_weights")
    return {
        "settings": {name: value for name, value in asdict(config).items() if name not in paths},
        "train": [
            {
                "file": corpus_data.name,
                "format": corpus.format,
                "guideline": corpus.guideline,
                "sha256": corpus_data.digest,
                "num_repairs": corpus_data.num_repairs,
            }
            for corpus, corpus_data in data.corpora
        ],
        "valid": {"file": data.valid.name, "sha256": data.valid.digest},
        "pictures": str(data.features),
        "valid_f1": standing.best_f1,
        "valid_strict_f1": strict_f1,
        "mentions": mention_hashes(sentence for _, corpus in data.corpora for sentence in corpus.sentences),
        "epoch": standing.best_epoch,
        "start": None if data.start is None else data.start.notes,
    }
