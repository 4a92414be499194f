"""Train, and then put the checkpoint where the workers look for one: `train_and_switch.py TOML CURRENT`.

Where there is no such TOML file, the practice set is made and trained on, so that there is something to see.
What is told to stop, or fails, switches nothing. This runs in the trainer's container, as its /checkpoints is.
"""

import signal
import sys
from pathlib import Path
from typing import NoReturn

from model import checkpoint
from model.errors import ModelError
from model.practice import write_practice_set
from model.tower_file import remove_other_towers, tower_file
from model.train import TrainConfig, train
from model.whole_file import whole_file

PRACTICE = Path(checkpoint.__file__).parent / "starter" / "practice.toml"


def switch(trained: Path, current: Path) -> None:
    """Make `current` a copy of `trained`, in one step. Raises a `ModelError` where it can't."""
    digest = checkpoint.load(trained)[0].tower_digest
    tower = tower_file(current, digest)
    learnt = tower_file(trained, digest)
    # The tower first: a checkpoint that is seen finds its tower there.
    if learnt.exists() and not tower.exists():
        _copy(learnt, tower)
    _copy(trained, current)
    remove_other_towers(current, digest, spared=tower)


def _copy(source: Path, target: Path) -> None:
    with whole_file(target) as file:
        file.write(source.read_bytes())


def _stop(*_signal: object) -> NoReturn:
    # As process 1 of a container it would otherwise be deaf to SIGTERM.
    sys.exit(128 + signal.SIGTERM)


def main(settings: Path, current: Path) -> int:
    """Train and switch; gives back the exit status."""
    try:
        if not settings.exists():
            print(f"{settings} isn't there: training on the practice set", flush=True)
            settings = PRACTICE
            write_practice_set(Path("practice"))
        result = train(TrainConfig.from_toml(settings))
        print(result)
        switch(Path(result.path), current)
    except ModelError as error:
        print(f"train_and_switch: {error}", file=sys.stderr)
        return 1
    print(f"{current} is the new checkpoint")
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop)
    # A training that Ctrl-C ends keeps its best so far and ends well, and yet isn't one to switch to.
    signal.signal(signal.SIGINT, _stop)
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
