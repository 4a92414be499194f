"""What a training tells while it runs: a progress bar, lines that stay, and TensorBoard's scalars."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from model.errors import DataError
from model.whole_file import writing


class TrainingReport:
    """A progress bar on standard error with loss, validation F1 and the time left; silent where not `enabled`."""

    def __init__(self, log: Path | None, *, enabled: bool = True) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            disable=not enabled,
        )
        self._scalars = _scalar_writer(log) if log is not None and enabled else None
        self._epochs: TaskID | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        if self._scalars is not None:
            self._scalars.close()

    def say(self, line: object) -> None:
        """Print a line that stays."""
        self._progress.console.print(
            str(line), markup=False, highlight=False, soft_wrap=True
        ) if self._enabled else None

    @property
    def _enabled(self) -> bool:
        return not self._progress.disable

    @contextlib.contextmanager
    def steps(self, what: str) -> Iterator[Any]:
        """A bar for one job; gives a function of the steps done and the steps of all."""
        task = self._progress.add_task(what, total=None)
        try:
            yield lambda done, total: self._progress.update(task, completed=done, total=total)
        finally:
            self._progress.remove_task(task)

    def begin(self, num_epochs: int, max_epochs: int) -> None:
        """Show the bar of the epochs."""
        self._epochs = self._progress.add_task("training", total=max_epochs, completed=num_epochs)

    def batch_done(self, share: float) -> None:
        """Move the bar by a share of an epoch."""
        if self._epochs is not None:
            self._progress.advance(self._epochs, share)

    def epoch_done(self, epoch: int, *, loss: float, f1: float, rate: float, seconds: float) -> None:
        """Report an epoch, numbered from 0."""
        line = f"epoch {epoch}: loss {loss:.3f}, valid F1 {f1:.2f}, {seconds:.0f} s"
        self.say(line)
        if self._epochs is not None:
            self._progress.update(self._epochs, completed=epoch + 1, description=line)
        if self._scalars is not None:
            for name, value in (("loss", loss), ("valid_f1", f1), ("learning_rate", rate), ("seconds", seconds)):
                self._scalars.add_scalar(name, value, epoch)


def _scalar_writer(log: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise DataError("log needs TensorBoard; pip install 'nametag[tensorboard]', or leave log out") from error
    with writing(log):
        return SummaryWriter(str(log))
