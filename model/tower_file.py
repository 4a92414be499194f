"""The weights of a tower that has learnt: a file beside the checkpoint, named by the digest that the checkpoint tells.

A training writes the tower first, under a name of its own, then the checkpoint, and then removes the towers of
earlier checkpoints. So whatever interrupts it, the checkpoint that stands there finds its own tower.
"""

import contextlib
import re
from pathlib import Path

import safetensors.torch

from model.checkpoint import Checkpoint
from model.errors import CheckpointError, TowerMissing
from model.tower import LEARNT_SUFFIX, Tower, build_tower
from model.whole_file import whole_file


def tower_file(checkpoint: Path, digest: str) -> Path:
    """Where the tower of the digest stands that belongs to `checkpoint`."""
    return checkpoint.with_name(f"{checkpoint.stem}.{digest}{LEARNT_SUFFIX}")


def write_tower(tower: Tower, checkpoint: Path) -> Path:
    """Write the tower as it is now beside `checkpoint`, and renew its digest. Raises `OutputError`."""
    path = tower_file(checkpoint, tower.renew_digest())
    if not path.exists():
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in tower.network.state_dict().items()}
        with whole_file(path) as file:
            file.write(safetensors.torch.save(state))
    return path


def remove_other_towers(checkpoint: Path, digest: str, *, spared: Path) -> None:
    """Remove the towers of earlier checkpoints in the place of `checkpoint`, whose own has `digest`; `spared` stays."""
    kept = {tower_file(checkpoint, digest).resolve(), spared.resolve()}
    # Without a digest: as towers were named before.
    named = re.compile(re.escape(checkpoint.stem) + r"(\.[0-9a-f]{16})?" + re.escape(LEARNT_SUFFIX))
    for path in checkpoint.parent.iterdir():
        if named.fullmatch(path.name) and path.resolve() not in kept:
            # One that stays only takes room.
            with contextlib.suppress(OSError):
                path.unlink()


def tower_of(checkpoint: Checkpoint, path: Path, *, may_download: bool = True) -> Tower:
    """The tower of the checkpoint in `path`, folded, with the weights beside it where the tower learnt too.

    Raises `TowerMissing` where the weights that the checkpoint was trained with aren't here, aren't whole, or would
    have to be downloaded and may not be; `CheckpointError` where no tower has its name.
    """
    learnt = tower_file(path, checkpoint.tower_digest)
    is_learnt = learnt.exists()
    try:
        tower = build_tower(checkpoint.tower, learnt if is_learnt else "default", may_download=may_download)
    except TowerMissing as error:
        raise TowerMissing(
            f"{path.name} needs its tower: {error}; put {learnt.name} beside it, or have `nametag tag --text hello "
            "--checkpoint FILE` download them here first"
        ) from error
    except CheckpointError as error:
        if is_learnt:
            raise TowerMissing(str(error)) from error
        raise
    if tower.digest == checkpoint.tower_digest:
        return tower.fold()
    if is_learnt:
        raise TowerMissing(f"{learnt.name} isn't the tower that it is named for; copy it again")
    raise TowerMissing(
        f"{path.name} was trained on another {checkpoint.tower} ({checkpoint.tower_digest}) than is here "
        f"({tower.digest}); put {learnt.name} beside it, get the same weights, or train it again"
    )
