"""EfficientNet-Lite0 (Tan, 2020) up to its last feature maps, with the weights' names as timm has them.

timm itself takes seconds to import: it brings every network that it knows, and torchvision. Maps must have even sides
wherever they are halved, as those of a picture of 224 have. In each module a BatchNorm follows its convolution, which
`model/tower.py` relies on when it folds the two.
"""

from torch import Tensor, nn
from torch.nn.functional import pad

WIDTH = 1280
STAGES = (
    # repeats, kernel, stride, how many times wider inside, C out
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM = 32


class Lite0(nn.Module):
    """Pictures (B, 3, H, W) in -1 to 1 to features (B, 1280, H/32, W/32)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem = _HalvingConv(3, _STEM, 3)
        self.bn1 = _norm(_STEM)
        stages, width = [], _STEM
        for repeats, kernel, stride, wider, out in STAGES:
            blocks: list[nn.Module] = []
            for number in range(repeats):
                block = _FirstBlock if wider == 1 else _Block
                blocks.append(block(width, out, kernel, stride if number == 0 else 1, width * wider))
                width = out
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)
        self.conv_head = nn.Conv2d(width, WIDTH, 1, bias=False)
        self.bn2 = _norm(WIDTH)
        self.act = nn.ReLU6(inplace=True)

    def forward(self, pictures: Tensor) -> Tensor:
        """The last feature maps."""
        maps = self.act(self.bn1(self.conv_stem(pictures)))
        features: Tensor = self.act(self.bn2(self.conv_head(self.blocks(maps))))
        return features


class _FirstBlock(nn.Module):
    """Each channel by itself, then all of them together; of other widths in and out."""

    def __init__(self, width: int, out: int, kernel: int, stride: int, inside: int) -> None:
        super().__init__()
        self.conv_dw = _depthwise(inside, kernel, stride)
        self.bn1 = _norm(inside)
        self.conv_pw = nn.Conv2d(inside, out, 1, bias=False)
        self.bn2 = _norm(out)
        self.act = nn.ReLU6(inplace=True)

    def forward(self, maps: Tensor) -> Tensor:
        result: Tensor = self.bn2(self.conv_pw(self.act(self.bn1(self.conv_dw(maps)))))
        return result


class _Block(nn.Module):
    """Wider, each channel by itself, narrower; added to what came in where that is as large."""

    def __init__(self, width: int, out: int, kernel: int, stride: int, inside: int) -> None:
        super().__init__()
        self.conv_pw = nn.Conv2d(width, inside, 1, bias=False)
        self.bn1 = _norm(inside)
        self.conv_dw = _depthwise(inside, kernel, stride)
        self.bn2 = _norm(inside)
        self.conv_pwl = nn.Conv2d(inside, out, 1, bias=False)
        self.bn3 = _norm(out)
        self.act = nn.ReLU6(inplace=True)
        self.is_added = stride == 1 and width == out

    def forward(self, maps: Tensor) -> Tensor:
        inside = self.act(self.bn1(self.conv_pw(maps)))
        inside = self.act(self.bn2(self.conv_dw(inside)))
        result: Tensor = self.bn3(self.conv_pwl(inside))
        return result + maps if self.is_added else result


class _HalvingConv(nn.Conv2d):
    """A convolution of stride 2 padded as TensorFlow's SAME does: the odd row and column go to the bottom and right."""

    def __init__(self, width: int, out: int, kernel: int, groups: int = 1) -> None:
        super().__init__(width, out, kernel, stride=2, groups=groups, bias=False)
        left = (kernel - 2) // 2
        self.around = (left, kernel - 2 - left) * 2

    def forward(self, maps: Tensor) -> Tensor:
        return super().forward(pad(maps, self.around))


def _depthwise(width: int, kernel: int, stride: int) -> nn.Conv2d:
    if stride == 2:
        return _HalvingConv(width, width, kernel, groups=width)
    return nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width, bias=False)


def _norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=1e-3)
