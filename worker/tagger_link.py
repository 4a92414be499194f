"""One process of a tagger: how it is started, asked, heard and seen off (`worker.tagger_child` is what runs there)."""

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from functools import cached_property
from io import BufferedReader
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from worker.errors import TaggerDied
from worker.tagger_wire import NUM_SLOTS, Facts, Failed, Slots, TaggerSpec

T = TypeVar("T")

PROGRAM = ("-m", "worker.tagger_child")
END_SECONDS = 5.0
MOMENT_SECONDS = 0.001


class Reply(Generic[T]):
    """What a request will bring; `read` makes it of the message."""

    def __init__(self, slot: int, read: Callable[[Any], T]) -> None:
        self.slot = slot
        self.read = read
        self.is_there = False
        self.found: T | None = None
        self.error: Exception | None = None


class TaggerLink:
    """One process of a tagger, the socket and the memory to talk to it by, and the requests that it hasn't answered.

    The process begins to load what `spec` names. It may be asked on one thread while another waits for a reply: replies
    come in the order of the requests.
    """

    def __init__(self, spec: TaggerSpec) -> None:
        with contextlib.ExitStack() as undone:
            try:
                self.slots = undone.enter_context(contextlib.closing(Slots.new()))
                ours, theirs = map(undone.enter_context, socket.socketpair())
                with theirs:
                    self._process = _start(theirs.fileno(), self.slots.file)
            except OSError as error:
                raise TaggerDied(f"no process for the tagger can be started: {error}") from error
            undone.pop_all()
        self._connection, self._stream = ours, ours.makefile("rb")
        # It ends when nobody has this any more.
        self._end = weakref.finalize(self, _end, self._process, ours, self._stream, self.slots)
        self._asking, self._receiving = threading.Lock(), threading.RLock()
        self._asked: deque[Reply[Any]] = deque()
        self._free = deque(range(NUM_SLOTS))
        self.is_gone = self._is_given_up = False
        self._send(spec)

    @cached_property
    def facts(self) -> Facts:
        """What it tells once it's ready; to be asked for before anything else. Raises as `Tagger.load` does."""
        found = self._receive()
        if found is None:
            raise self._death(amid_request=False)
        if isinstance(found, Failed):
            raise found.error
        assert isinstance(found, Facts)
        return found

    @property
    def process_id(self) -> int:
        """Of the process that was started."""
        return self._process.pid

    def close(self) -> None:
        """End the process at once, whatever it does."""
        self.is_gone = True
        self._end()

    def free_slot(self) -> int | None:
        """A slot, if one is free."""
        try:
            return self._free.popleft()
        except IndexError:
            return None

    def take_slot(self) -> int:
        """A slot, as soon as one is free."""
        while (slot := self.free_slot()) is None:
            with self._receiving:
                if self._asked and not self._free:
                    self._settle_next()
                    continue
            time.sleep(MOMENT_SECONDS)  # another thread is about to ask
        return slot

    def put_back(self, slot: int) -> None:
        """Nothing is asked of it."""
        self._free.append(slot)

    @contextlib.contextmanager
    def filling(self, slot: int) -> Iterator[int]:
        """`slot`, which is free again where it can't be filled."""
        try:
            yield slot
        except BaseException:
            self.put_back(slot)
            raise

    def ask(self, slot: int, request: tuple[str, int, int, int], read: Callable[[Any], T]) -> Reply[T]:
        """Send a request on what stands in `slot`; never waits, for it is short."""
        reply = Reply(slot, read)
        with self._asking:
            self._asked.append(reply)
            self._send(request)
        return reply

    def wait(self, reply: Reply[T]) -> T:
        """What it brought. Raises what was raised there, and `TaggerDied` where the process ends."""
        with self._receiving:
            while not reply.is_there:
                self._settle_next()
        if reply.error is None:
            return cast(T, reply.found)
        error, reply.error = reply.error, None
        try:
            raise error
        finally:
            # Else error, traceback and this frame hold one another, and the memory of what died.
            del error

    def _settle_next(self) -> None:
        reply = self._asked.popleft()
        try:
            found = self._receive()
            if found is None:
                reply.error = self._death()
            elif isinstance(found, Failed):
                reply.error = found.error
            else:
                reply.found = reply.read(found)
        except Exception as error:
            # Such as a lack of memory here: what else is on the way may be cut anywhere.
            reply.error = error
            self._give_up()
        finally:
            reply.is_there = True
            self._free.append(reply.slot)

    def _send(self, message: object) -> None:
        try:
            self._connection.sendall(pickle.dumps(message))
        except OSError:
            self.is_gone = True  # whoever waits for the reply hears of it

    def _receive(self) -> Any:
        """The next message; None where there will be none."""
        if self._is_given_up:
            return None
        try:
            return pickle.load(self._stream)
        except (EOFError, OSError, pickle.UnpicklingError):
            self.is_gone = True
            return None

    def _give_up(self) -> None:
        self.is_gone = self._is_given_up = True
        self._process.kill()

    @property
    def how_it_ended(self) -> str:
        """In words."""
        try:
            status = self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            return "its process doesn't answer any more"
        return f"its process ended with {status}" if status >= 0 else f"its process died of {_signal_name(-status)}"

    def _death(self, *, amid_request: bool = True) -> TaggerDied:
        how = self.how_it_ended
        was_killed = amid_request and not self._is_given_up and self._process.returncode == -signal.SIGKILL
        detail = f"the tagger broke off: {how}; its last words may be on the worker's standard error"
        return TaggerDied(detail, was_killed=was_killed)


def _start(connection: int, memory: int) -> "subprocess.Popen[bytes]":
    # What this process finds is what that one is to find, and nothing that lies in the working directory by chance.
    path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    return subprocess.Popen(
        [sys.executable, "-P", *PROGRAM, str(connection), str(memory)],
        env=os.environ | {"PYTHONPATH": path},
        pass_fds=(connection, memory),
        stdin=subprocess.DEVNULL,
        stdout=2,  # whatever is printed there is no event
        start_new_session=True,  # a terminal's Ctrl-C is the worker's affair
    )


def _end(process: "subprocess.Popen[bytes]", connection: socket.socket, stream: BufferedReader, slots: Slots) -> None:
    process.kill()
    # To free half a gigabyte takes a tenth of a second, which asyncio's loop can't spare. As Python ends it has no more
    # threads, and the system sees to it.
    with contextlib.suppress(RuntimeError):
        threading.Thread(target=process.wait, name="tagger-end", daemon=True).start()
    for each in (stream, connection, slots):
        with contextlib.suppress(OSError):
            each.close()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
