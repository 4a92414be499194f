"""A visual tower that learns with the tagger, at a small share of its learning rate.

N pictures, R regions (49), D the tower's width.
"""

from pathlib import Path

import safetensors.torch
from torch import Tensor, nn

from model.tower import Tower


class LearningTower(nn.Module):
    """`tower` with gradients; the statistics of its BatchNorm layers stay as they are, and so does its mode."""

    def __init__(self, tower: Tower) -> None:
        super().__init__()
        self.tower = tower
        tower.network.requires_grad_(True)

    def forward(self, pixels: Tensor) -> Tensor:
        """Features (N, R, D) in fp32 of pixels (N, 3, 224, 224) in uint8."""
        maps: Tensor = self.tower.network((pixels.to(self.tower.mean) - self.tower.mean) / self.tower.std)
        return maps.flatten(2).transpose(1, 2)

    def write(self, path: Path) -> str:
        """Write the weights for `build_tower`; gives the tower's new digest."""
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tower.network.state_dict().items()}
        temporary = path.with_name(f".{path.name}")
        safetensors.torch.save_file(state, temporary)
        temporary.replace(path)
        return self.tower.renew_digest()
