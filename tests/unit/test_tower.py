"""The visual tower: real weights, 49 regions, a digest that names it."""

from pathlib import Path

import pytest
import torch

from model.errors import CheckpointError
from model.tower import Tower, build_tower

PIXELS = torch.randint(0, 256, (3, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def lite0() -> Tower:
    """The small tower with its package's weights."""
    return build_tower("efficientnet_lite0")


def test_lite0_has_its_package_s_weights(lite0: Tower) -> None:
    """Strictly loaded, 1280 × 7 × 7, and the same digest in every process that has the same weights."""
    features = lite0(PIXELS)
    assert features.shape == (3, 49, 1280)
    assert features.dtype == torch.float16
    assert lite0.digest == build_tower("efficientnet_lite0").digest
    assert lite0.digest != build_tower("efficientnet_lite0", None).digest


def test_lite0_is_timm_s_network_to_the_bit(lite0: Tower) -> None:
    """The same names of the same weights, so that the digest is what it was, and the same maps."""
    import timm  # several seconds

    theirs = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0, global_pool="").eval()
    theirs.load_state_dict(lite0.network.state_dict())
    pictures = PIXELS.float() / 127.5 - 1
    with torch.no_grad():
        assert torch.equal(lite0.network(pictures), theirs(pictures))
    assert lite0.digest == "5a5d6b09b7427840"


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18", "resnet50"])
def test_a_folded_tower_sees_the_same(name: str) -> None:
    """Without any BatchNorm, under the same digest; it has no weights of its own to write any more."""
    tower = build_tower(name, "default" if name == "efficientnet_lite0" else None)
    before, digest = tower(PIXELS).float(), tower.digest
    after = tower.fold()(PIXELS).float()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in tower.modules())
    assert tower.digest == digest
    assert torch.allclose(after, before, rtol=2**-9, atol=1e-3 * float(before.abs().max()))
    assert (after != before).float().mean() < 0.02
    with pytest.raises(ValueError, match="build it again"):
        tower.renew_digest()


def test_a_frozen_tower_stays_frozen(lite0: Tower) -> None:
    """train() neither moves BatchNorm's statistics nor makes a parameter learn."""
    before = lite0(PIXELS)
    lite0.train()
    assert torch.equal(lite0(PIXELS), before)
    assert not any(parameter.requires_grad for parameter in lite0.parameters())


def test_a_region_is_where_it_was_in_the_picture(lite0: Tower) -> None:
    """A change in the picture's top left corner changes the first region most: heat maps map back."""
    black = torch.zeros(1, 3, 224, 224, dtype=torch.uint8)
    spot = black.clone()
    spot[:, :, :32, :32] = 255
    change = (lite0(spot).float() - lite0(black).float()).norm(dim=2)[0]
    assert int(change.argmax()) in (0, 1, 7, 8)
    assert change[0] > change[48]


def test_a_resnet_s_width_is_read_from_the_network(tmp_path: Path) -> None:
    """resnet18 gives 512 × 7 × 7, and takes its weights from a file."""
    import torchvision

    path = tmp_path / "resnet18.pth"
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18().state_dict(), path)
    tower = build_tower("resnet18", path)
    assert tower.width == 512
    assert tower(PIXELS[:1]).shape == (1, 49, 512)
    with pytest.raises(CheckpointError, match="not those of resnet34"):
        build_tower("resnet34", path)


def test_an_unknown_tower_is_refused() -> None:
    """The refusal names the towers that there are."""
    with pytest.raises(CheckpointError, match="resnet152"):
        build_tower("vgg16")
