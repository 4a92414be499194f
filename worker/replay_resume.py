"""How far a replay came, so that it goes on exactly there: to files, kept together with their lengths.

1. the outcomes are appended to the outputs, and these are synced to the disk;
2. the place of the last and the outputs' lengths are written to the file of `--resume`, whole or not at all.

A replay that was killed between the two finds outputs that are longer than was kept, and cuts them back.
"""

import asyncio
import fcntl
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from consumers.archive_posts import Place
from consumers.archive_source import PARTITION, ArchiveSource
from consumers.dead_letters import DeadLetter
from consumers.source import Offsets
from model.whole_file import whole_file
from worker.errors import SettingsError, SinkUnavailable
from worker.publish import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What was kept: the place of the last post that is done, and how long the two outputs were then.

    Where posts go to a topic, the brokers keep the place, under the replay's `name`; here a place only
    tells that they do.
    """

    place: Place | None = None
    lengths: tuple[int, int] = (0, 0)
    name: str = field(default_factory=lambda: uuid4().hex)


class ResumeFile:
    """The file of `--resume`; `replay` describes the inputs, the choice and the outputs that it belongs to."""

    def __init__(self, path: Path, replay: Sequence[str]) -> None:
        self._path = path
        self._replay = sha256(json.dumps(replay).encode()).hexdigest()

    def __str__(self) -> str:
        return str(self._path)

    @property
    def is_there(self) -> bool:
        """Whether the replay was begun before."""
        return self._path.exists()

    def read(self) -> Kept:
        """What was kept; nothing at the first start. Raises `SettingsError` where it is another replay's."""
        try:
            kept = json.loads(self._path.read_bytes())
            replay, name, (events, letters) = kept["replay"], kept["name"], kept["lengths"]
            place = Place(*kept["place"]) if kept["place"] else None
        except FileNotFoundError:
            return Kept()
        except OSError as error:
            raise SettingsError(f"{self._path} can't be read ({error.strerror}); name another with --resume") from error
        except (ValueError, KeyError, TypeError) as error:
            raise SettingsError(f"{self._path} is no file of a replay; name another with --resume") from error
        if replay != self._replay:
            raise SettingsError(
                f"{self._path} belongs to a replay of other inputs, choices or outputs; "
                "give the same as then, or name another with --resume"
            )
        return Kept(place=place, lengths=(events, letters), name=name)

    def write(self, kept: Kept) -> None:
        """Put `kept` in its place, whole. Raises `OutputError`."""
        with whole_file(self._path) as file:
            body = {"replay": self._replay, "place": kept.place, "lengths": kept.lengths, "name": kept.name}
            file.write(json.dumps(body).encode() + b"\n")


class ResumableSink:
    """Appends events and dead letters to two files, and keeps how far it came."""

    commits_offsets = True

    def __init__(self, paths: tuple[str, str], resume: ResumeFile, kept: Kept, source: ArchiveSource) -> None:
        self._paths, self._resume, self._kept, self._source = paths, resume, kept, source
        self._files: list[BinaryIO] = []

    async def start(self) -> None:
        """Open the files, and cut off what is behind what was kept. Raises `SinkUnavailable`."""
        for path, length in zip(self._paths, self._kept.lengths, strict=True):
            self._files.append(await asyncio.to_thread(self._open, path, length))
        # Before anything is in the files: that what is there is this replay's.
        await asyncio.to_thread(self._resume.write, self._kept)

    async def publish(self, outcomes: Sequence[Outcome], offsets: Offsets, membership: object) -> None:
        """Write one line for each outcome, then keep how far that is."""
        place = self._source.place_before(offsets[PARTITION])
        await asyncio.to_thread(self._write, outcomes, place)

    async def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()

    def _open(self, path: str, length: int) -> BinaryIO:
        try:
            # Without a buffer: what can't be written is told by the write, and nothing is left for the close.
            file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)
            _lock(file, path)
            if file.seek(0, os.SEEK_END) < length:
                file.close()
                raise SinkUnavailable(
                    f"{path} is shorter than the replay left it; bring it back, or remove {self._resume} and begin anew"
                )
            file.truncate(length)
            file.seek(length)
        except OSError as error:
            raise SinkUnavailable(f"{path} can't be written ({error.strerror}); name another file") from error
        return file

    def _write(self, outcomes: Sequence[Outcome], place: Place) -> None:
        lines: tuple[list[bytes], list[bytes]] = ([], [])
        for outcome in outcomes:
            lines[isinstance(outcome, DeadLetter)].append(outcome.to_json() + b"\n")
        try:
            for file, new in zip(self._files, lines, strict=True):
                data = memoryview(b"".join(new))
                while data:
                    data = data[file.write(data) :]
                os.fsync(file.fileno())
            lengths = (self._files[0].tell(), self._files[1].tell())
        except OSError as error:
            raise SinkUnavailable(f"an event can't be written ({error.strerror}); make room there") from error
        self._resume.write(replace(self._kept, place=place, lengths=lengths))


def _lock(file: BinaryIO, path: str) -> None:
    """Keep a second start of the same replay from cutting off what the first one writes."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise SinkUnavailable(
            f"{path} is being written by another replay; wait for it, or name another file"
        ) from error
