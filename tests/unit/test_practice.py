"""The practice set: where it can't be written, that is told."""

from pathlib import Path

import pytest

from model.errors import OutputError
from model.practice import write_practice_set


def test_a_place_that_is_a_file(tmp_path: Path) -> None:
    """A file in the folder's place, or in the place of a folder above it, is named and stays."""
    file = tmp_path / "practice"
    file.write_text("mine", encoding="utf-8")
    for folder in (file, file / "set"):
        with pytest.raises(OutputError, match=r"practice.* can't be written \(.+\); name another place"):
            write_practice_set(folder, num_train=1, num_valid=1)
    assert file.read_text(encoding="utf-8") == "mine"
