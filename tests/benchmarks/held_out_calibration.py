"""The calibration error on held-out data: each half of a file is judged with the temperature of the other half.

Run it from the repository: `python tests/benchmarks/held_out_calibration.py CHECKPOINT DATA [--splits N]`. The file is
halved at random, N times over. "Perfect" is what confidences that are exactly right would show on as many spans,
for the error can't be negative: what lies below it is noise.
"""

import argparse
import random
import statistics
from collections.abc import Sequence
from pathlib import Path

from model.calibration import best_temperature, predicted_spans
from model.checkpoint import load
from model.data import Dataset, read_conll
from model.features import ImageFeatures
from model.reliability import reliability

NUM_PERFECT = 50


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line a split, and one for all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="of the variant blstm_crf")
    parser.add_argument("data", type=Path, help="a CoNLL file that wasn't trained on")
    parser.add_argument("--splits", type=int, default=5, help="how many (default: %(default)s)")
    options = parser.parse_args(arguments)
    checkpoint, identity = load(options.checkpoint)
    data, network = read_conll(options.data), checkpoint.build()
    figures = []
    for seed in range(options.splits):
        rows = list(data.sentences)
        random.Random(seed).shuffle(rows)
        halves = [
            predicted_spans(
                network,
                checkpoint.labels,
                checkpoint.vocabulary,
                Dataset(tuple(part), 0, data.digest, data.name),
                ImageFeatures(),
            )
            for part in (rows[::2], rows[1::2])
        ]
        fitted = [best_temperature(half) for half in halves]
        correct = [right for half in halves for right in half.correct]
        before = [confidence for half in halves for confidence in half.confidences(1.0)]
        crossed = zip(halves, reversed(fitted), strict=True)
        after = [confidence for half, temperature in crossed for confidence in half.confidences(temperature)]
        chance = random.Random(0)
        perfect = statistics.mean(
            reliability(after, [chance.random() < confidence for confidence in after]).ece for _ in range(NUM_PERFECT)
        )
        eces = reliability(before, correct).ece, reliability(after, correct).ece, perfect
        figures.append(eces)
        print(f"temperatures {fitted[0]:.3f} and {fitted[1]:.3f}: {_told(eces)}", flush=True)
    means = [statistics.mean(column) for column in zip(*figures, strict=True)]
    print(f"{identity} on {data.name}, {len(correct)} spans, {options.splits} splits, means: {_told(means)}")


def _told(eces: Sequence[float]) -> str:
    before, after, perfect = eces
    return f"ECE at temperature 1 {before:.4f}, held out {after:.4f}, perfect {perfect:.4f}"


if __name__ == "__main__":
    main()
