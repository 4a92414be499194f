"""Pictures' features: looked at once, and not at all where the picture can't be trusted."""

import contextlib
import errno
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model.data import ImageFolder
from model.errors import OutputError, PictureError
from model.features import FeatureFolder, compute_features, load_pixels


class CountingTower:
    """Stands in for a tower: gives the pictures' first red value, and counts how many it saw."""

    def __init__(self) -> None:
        self.num_seen = 0

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        self.num_seen += len(pixels)
        return pixels[:, 0, 0, 0].half().view(-1, 1, 1).expand(-1, 49, 3)


@pytest.fixture
def pictures(tmp_path: Path) -> ImageFolder:
    """Ten pictures of ten colours, of which two are the same, and a broken one."""
    for number in range(10):
        Image.new("RGB", (30, 20), (number * 20, 0, 0)).save(tmp_path / f"p{number}.png")
    (tmp_path / "copy.png").write_bytes((tmp_path / "p3.png").read_bytes())
    (tmp_path / "broken.png").write_bytes(b"no picture")
    return ImageFolder(tmp_path)


IDS = ["copy", "broken", "none", None, *(f"p{number}" for number in range(10))]


def test_counts(pictures: ImageFolder) -> None:
    """Missing, broken and duplicated pictures are counted, and none of them has features."""
    features = compute_features(IDS, pictures, CountingTower())  # type: ignore[arg-type]
    assert (features.num_missing, features.num_broken, features.num_duplicated) == (1, 1, 2)
    assert sorted(features.by_id) == [f"p{number}" for number in range(10) if number != 3]
    assert all(features.of(name) is None for name in ("none", "broken", "copy", "p3", None))
    assert str(features) == "9 pictures; missing 1, broken 1, duplicated 2"


def test_whatever_is_wrong_with_a_picture_is_one_error(tmp_path: Path) -> None:
    """Also what Pillow raises for a broken AVIF, a picture of too many pixels, and a format that isn't on the list."""
    good = tmp_path / "good.avif"
    Image.new("RGB", (64, 64), (9, 9, 9)).save(good)
    whole = good.read_bytes()
    assert load_pixels(good).shape == (3, 224, 224)
    for number in range(0, len(whole) - 8, 7):
        path = tmp_path / "bad.jpg"
        path.write_bytes(whole[:number] + b"\xff" * 8 + whole[number + 8 :])
        with contextlib.suppress(PictureError):
            load_pixels(path)
    Image.new("1", (10_000, 6_000)).save(tmp_path / "large.png")
    (tmp_path / "script.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    for name in ("large.png", "script.jpg"):
        with pytest.raises(PictureError, match=name):
            load_pixels(tmp_path / name)


def test_kept_features(pictures: ImageFolder, tmp_path: Path) -> None:
    """With a folder to keep them the tower sees each picture once, ever; another tower sees them anew."""
    tower = CountingTower()
    kept = FeatureFolder(tmp_path / "kept", "tower")
    first = compute_features(IDS, pictures, tower, kept=kept)  # type: ignore[arg-type]
    again = compute_features(IDS, pictures, tower, kept=kept)  # type: ignore[arg-type]
    assert tower.num_seen == 9
    assert all(torch.equal(again.by_id[name], seen) for name, seen in first.by_id.items())
    compute_features(IDS, pictures, tower, kept=FeatureFolder(tmp_path / "kept", "other"))  # type: ignore[arg-type]
    assert tower.num_seen == 18


def test_cut_features_are_computed_again(pictures: ImageFolder, tmp_path: Path) -> None:
    """A file of features that was cut short counts as none."""
    kept = FeatureFolder(tmp_path / "kept", "tower")
    kept.put("digest", torch.from_numpy(np.ones((49, 3), dtype=np.float16)))
    (file,) = (tmp_path / "kept" / "tower").iterdir()
    assert kept.get("digest") is not None
    file.write_bytes(file.read_bytes()[:-5])
    assert kept.get("digest") is None
    assert kept.get("other") is None


def test_a_full_disk_leaves_nothing_half_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Features that can't be kept end in a sentence, and no temporary file stays."""
    kept = FeatureFolder(tmp_path, "tower")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OutputError, match=r"picture\.npy can't be written \(No space left on device\); make room"):
        kept.put("picture", torch.zeros(49, 3).half())
    assert not list((tmp_path / "tower").iterdir())


def test_kept_features_of_another_kind_are_looked_at_anew(tmp_path: Path) -> None:
    """A file that holds texts, or numbers of another size, is no picture's features."""
    (tmp_path / "tower").mkdir()
    for number, features in enumerate((np.array(["a"]), np.zeros((49, 3)), np.zeros(3, dtype=np.float16))):
        np.save(tmp_path / "tower" / f"{number}.npy", features)
        assert FeatureFolder(tmp_path, "tower").get(str(number)) is None
