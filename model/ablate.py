"""The paper's Table 3 on one's own data: the four variants, each trained with several seeds."""

import hashlib
import json
import signal
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, get_args

import numpy as np

from model.bootstrap import Counts, Difference, counts_of, paired_bootstrap
from model.corpora import Corpus
from model.data import Dataset
from model.errors import DataError
from model.evaluate import predict_corpus
from model.input_digests import input_digests
from model.scores import OVERALL, Score, lenient_spans, score, strict_spans
from model.tagger import Variant
from model.train import TrainConfig, TrainResult, train
from model.whole_file import whole_file

BASELINE = "blstm_crf"
NAMES = {
    "blstm_crf": "BLSTM-CRF",
    "global_image": "BLSTM-CRF + Global Image Vector",
    "attention": "BLSTM-CRF + Visual attention",
    "attention_gate": "BLSTM-CRF + Visual attention + Gate",
}
PAPER = {
    "blstm_crf": ((57.71, 58.65, 58.18), (78.88, 77.47, 78.17)),
    "global_image": ((61.49, 57.84, 59.61), (79.75, 77.32, 78.51)),
    "attention": ((65.53, 57.03, 60.98), (80.81, 77.36, 79.05)),
    "attention_gate": ((66.67, 57.84, 61.94), (81.62, 79.90, 80.75)),
}
"""Table 3 of Lu et al. (2018): precision, recall and F1 on the Snap captions, and on the paper's own Twitter set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One training and its scores; `counts` by sentence, lenient: correct, predicted and gold spans."""

    variant: str
    seed: int
    checkpoint_id: str
    lenient: Score
    strict: Score
    counts: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """Mean and sample standard deviation over the seeds; the latter 0 for one seed."""

    mean: float
    std: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Mean":
        """Those of `values`."""
        return cls(mean=statistics.fmean(values), std=statistics.stdev(values) if len(values) > 1 else 0.0)

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.std:.2f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A variant's line of the table, in percent; P, R and F1 are lenient, as the paper's are."""

    variant: str
    precision: Mean
    recall: Mean
    f1: Mean
    strict_f1: Mean
    against_baseline: Difference | None
    """None for the baseline itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablation:
    """The table, and what it was measured on; `digest` is the SHA-256 of that file."""

    data: str
    digest: str
    num_sentences: int
    seeds: tuple[int, ...]
    rows: tuple[Row, ...]


def ablate(
    config: TrainConfig,
    num_seeds: int,
    out: Path,
    corpus: Corpus | None = None,
    *,
    train_one: Callable[[TrainConfig], TrainResult] = train,
) -> Ablation:
    """Train the four variants with the seeds 0 to `num_seeds` - 1 and compare them on `corpus`.

    Without `corpus` they are compared on the validation set, which chose each training's best epoch too, so
    all four are flattered. Checkpoints and results go to `out`; a training whose result is there isn't
    repeated. Raises `DataError` where `out` holds results of other settings, or what `train` raises.
    """
    if num_seeds < 1:
        raise DataError(f"{num_seeds} seeds make no table; ask for at least one")
    scored_on = config.valid_corpus if corpus is None else corpus
    data = scored_on.read()
    fingerprint = _fingerprint(config, scored_on, data)
    seeds = tuple(range(num_seeds))
    runs = {
        variant: [_run(config, variant, seed, out, scored_on, fingerprint, train_one) for seed in seeds]
        for variant in get_args(Variant)
    }
    baseline = _counts(runs[BASELINE])
    return Ablation(
        data=data.name,
        digest=data.digest,
        num_sentences=len(data.sentences),
        seeds=seeds,
        rows=tuple(_row(variant, runs[variant], baseline) for variant in runs),
    )


def _run(
    config: TrainConfig,
    variant: str,
    seed: int,
    out: Path,
    scored_on: Corpus,
    fingerprint: str,
    train_one: Callable[[TrainConfig], TrainResult],
) -> Run:
    """A training and its scores, from the folder if it is there."""
    checkpoint = out / variant / f"seed-{seed}.safetensors"
    result = checkpoint.with_suffix(".json")
    if result.exists():
        return _read(result, fingerprint)
    log = None if config.log is None else str(Path(config.log) / variant / f"seed-{seed}")
    _train_whole(replace(config, variant=variant, seed=seed, out=str(checkpoint), log=log), train_one)
    predictions = predict_corpus(checkpoint, scored_on)
    gold = predictions.gold
    lenient = [lenient_spans(tags) for tags in predictions.tags]
    run = Run(
        variant=variant,
        seed=seed,
        checkpoint_id=predictions.checkpoint_id,
        lenient=score(gold, lenient)[OVERALL],
        strict=score(gold, [strict_spans(tags) for tags in predictions.tags])[OVERALL],
        counts=tuple(counts_of(gold, lenient)),
    )
    _write(result, {"fingerprint": fingerprint, **asdict(run)})
    return run


def _train_whole(config: TrainConfig, train_one: Callable[[TrainConfig], TrainResult]) -> None:
    """Train to the end or raise: at Ctrl-C the trainer keeps its best and returns, which is no finished run."""
    was_interrupted = False

    def note(_number: int, _frame: FrameType | None) -> None:
        nonlocal was_interrupted
        was_interrupted = True
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, note)
    try:
        train_one(config)
    finally:
        signal.signal(signal.SIGINT, before)
    if was_interrupted:
        raise KeyboardInterrupt


def _fingerprint(config: TrainConfig, scored_on: Corpus, data: Dataset) -> str:
    """What a result depends on, beside variant and seed: the settings, and the content of all that is read."""
    free = ("variant", "seed", "out", "features", "log")
    settings = {name: told for name, told in asdict(config).items() if name not in free}
    corpora = [(corpus, corpus.read()) for corpus in config.corpora]
    # As the variants do that look at pictures.
    seeing = replace(config, variant="attention_gate")
    read = [input_digests(seeing, [*corpora, (scored_on, data)], config.valid_corpus.read()), data.digest]
    return hashlib.sha256(json.dumps([settings, read], sort_keys=True, default=str).encode()).hexdigest()


def _read(path: Path, fingerprint: str) -> Run:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        same = told["fingerprint"] == fingerprint
        run = Run(
            variant=told["variant"],
            seed=told["seed"],
            checkpoint_id=told["checkpoint_id"],
            lenient=Score(**told["lenient"]),
            strict=Score(**told["strict"]),
            counts=tuple((int(correct), int(predicted), int(gold)) for correct, predicted, gold in told["counts"]),
        )
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is no result of an ablation ({error}); remove it to train again") from error
    if not same:
        raise DataError(f"{path} was made with other settings or other data; give another --out, or remove it")
    return run


def _write(path: Path, told: dict[str, Any]) -> None:
    """Write it whole or not at all: its being there says that the training is finished."""
    with whole_file(path) as file:
        file.write(json.dumps(told).encode())


def _counts(runs: Sequence[Run]) -> Counts:
    return np.array([run.counts for run in runs], dtype=np.float64)


def _row(variant: str, runs: Sequence[Run], baseline: Counts) -> Row:
    return Row(
        variant=variant,
        precision=Mean.of([run.lenient.precision for run in runs]),
        recall=Mean.of([run.lenient.recall for run in runs]),
        f1=Mean.of([run.lenient.f1 for run in runs]),
        strict_f1=Mean.of([run.strict.f1 for run in runs]),
        against_baseline=None if variant == BASELINE else paired_bootstrap(_counts(runs), baseline),
    )


def render(ablation: Ablation) -> str:
    """Table 3 for people: ours, the bootstrap, and the paper's own figures, which come from other data."""
    lines = [
        f"{ablation.data}  {ablation.num_sentences} sentences, seeds {', '.join(map(str, ablation.seeds))}, "
        f"sha256 {ablation.digest[:12]}",
        f"{'':36}{'Precision':>16}{'Recall':>16}{'F1':>16}{'strict F1':>16}   F1 against BLSTM-CRF",
    ]
    for row in ablation.rows:
        cells = "".join(f"{told!s:>16}" for told in (row.precision, row.recall, row.f1, row.strict_f1))
        lines.append(f"{NAMES[row.variant]:36}{cells}   {_against(row.against_baseline)}".rstrip())
    lines += [
        "",
        "the paper's Table 3, on data that isn't public",
        f"{'':36}{'Snap captions':^24}  {'Twitter':^24}",
        f"{'':36}{'P':>8}{'R':>8}{'F1':>8}  {'P':>8}{'R':>8}{'F1':>8}",
    ]
    for variant, (snap, twitter) in PAPER.items():
        halves = ["".join(f"{number:8.2f}" for number in numbers) for numbers in (snap, twitter)]
        lines.append(f"{NAMES[variant]:36}{'  '.join(halves)}")
    return "\n".join(lines)


def _against(told: Difference | None) -> str:
    if told is None:
        return ""
    return f"{told.difference:+.2f}, 95 % {told.low:+.2f} to {told.high:+.2f}, p = {told.p_value:.4f}"


def to_json(ablation: Ablation) -> str:
    """The table for programs, with the paper's figures by variant: Snap, then Twitter, each P, R, F1."""
    return json.dumps({**asdict(ablation), "paper": PAPER}, indent=2)
