"""What a training tells: scalars only where a folder for them is set."""

import sys
from pathlib import Path

import pytest

from model.errors import DataError
from model.reporting import TrainingReport


def test_tensorboard_is_optional(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without TensorBoard a training without a log runs, and one with a log says what to install."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    TrainingReport(None)
    with pytest.raises(DataError, match=r"pip install 'nametag\[tensorboard\]'"):
        TrainingReport(tmp_path)


def test_scalars(tmp_path: Path) -> None:
    """With TensorBoard each epoch leaves its scalars in the folder, as TensorBoard itself reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with TrainingReport(tmp_path) as report:
        report.begin(0, 1)
        report.epoch_done(0, loss=1.0, f1=50.0, rate=0.03, seconds=1.0)
        report.epoch_done(1, loss=0.5, f1=60.0, rate=0.02, seconds=1.0)
    read = EventAccumulator(str(tmp_path)).Reload()
    scalars = {tag: [point.value for point in read.Scalars(tag)] for tag in read.Tags()["scalars"]}
    assert [1.0, 0.5] in scalars.values()
    assert [50.0, 60.0] in scalars.values()


def test_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """A line that stays goes to standard error as it is; a report that isn't enabled says nothing."""
    with TrainingReport(None) as report:
        report.say("[bold] 3 posts")
    with TrainingReport(None, enabled=False) as silent:
        silent.say("hush")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "[bold] 3 posts" in captured.err
    assert "hush" not in captured.err
