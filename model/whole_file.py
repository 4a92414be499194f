"""Files that are written whole or not at all, and errors that say what to do where they can't be."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from model.errors import OutputError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def whole_file(path: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """A file that takes the place of `path`, and makes its folder, when the block ends well; else nothing is left.

    One that isn't `durable` may be cut short where the power fails right after. Raises `OutputError`.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the system's refusal to write what belongs to `path` into an `OutputError` with what to do."""
    try:
        yield
    except OSError as error:
        advice = "make room there" if error.errno in _NO_ROOM else "name another place"
        raise OutputError(f"{path} can't be written ({error.strerror or error}); {advice}") from error


def check_writable(path: Path) -> None:
    """Find out now, and not after hours of work, whether `path` can be written. Raises `OutputError`."""
    if path.is_dir():
        raise OutputError(f"{path} is a folder; name a file")
    probe = path.with_name(f".{path.name}.{os.getpid()}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
