"""Trains one configuration with several seeds, and prints the validation F1 of each, their mean and deviation.

Run it from the repository: `python tests/benchmarks/train_seeds.py TOML [--seeds N]`.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from model.train import TrainConfig, train


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line a seed, and one for all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path, metavar="TOML")
    parser.add_argument("--seeds", type=int, default=5, help="how many (default: %(default)s), from 0")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch's")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    config = TrainConfig.from_toml(options.config)
    out = Path(config.out)
    f1s = []
    for seed in range(options.seeds):
        started = time.monotonic()
        result = train(replace(config, seed=seed, out=str(out.with_stem(f"{out.stem}-{seed}"))))
        seconds = (time.monotonic() - started) / result.num_epochs
        f1s.append(result.best_f1)
        print(f"seed {seed}: {result}, {seconds:.1f} s an epoch", flush=True)
    deviation = statistics.stdev(f1s) if len(f1s) > 1 else 0.0
    print(f"valid F1 {statistics.mean(f1s):.2f} ± {deviation:.2f} over {len(f1s)} seeds")


if __name__ == "__main__":
    main()
