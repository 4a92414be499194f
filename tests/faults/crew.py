"""The workers of a run: one to three of them, who join, leave, die and sleep as the plan says."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from tests.faults.plan import MOST_WORKERS, Move, Plan
from tests.faults.posts import MARKER

SHUTDOWN_SECONDS = 5.0
STOP_SECONDS = SHUTDOWN_SECONDS + 5.0
"""The setting, and what a busy machine adds."""
"""A worker's own budget at SIGTERM, and with the client's farewells, after which it is late."""

REPOSITORY = Path(__file__).parents[2]

NOBODY_THERE = "no Kafka broker could be had"


@dataclass(slots=True, kw_only=True)
class Worker:
    """One worker process, and how it ended."""

    number: int
    log: Path
    pid: int = 0
    status: int | None = None
    was_killed: bool = False
    is_asleep: bool = False
    asked_at: float | None = None
    ended_at: float | None = None

    @property
    def is_there(self) -> bool:
        """Whether it works: not ended, not asked to, not asleep."""
        return self.status is None and self.asked_at is None and not self.is_asleep and not self.was_killed

    @property
    def stop_seconds(self) -> float:
        """How long it took to leave when asked to."""
        return 0.0 if self.asked_at is None or self.ended_at is None else self.ended_at - self.asked_at

    def problem(self) -> str | None:
        """What is wrong with how it ended; None where that was as it should be."""
        if self.was_killed:
            return None
        if self.asked_at is None:
            if self.status == 1 and NOBODY_THERE in self._last_line():
                return None  # started into a broker's absence, which it may say, and somebody starts it again
            return f"worker {self.number} ended with {self.status} unasked: {self._last_line()}"
        if self.status == -signal.SIGTERM and self.log.exists() and not self.log.stat().st_size:
            return None  # asked before it had begun
        if self.status != 0 or self.stop_seconds > STOP_SECONDS:
            took = f"{self.stop_seconds:.1f} s after SIGTERM"
            return f"worker {self.number} ended with {self.status} {took}: {self._last_line()}"
        return None

    def _last_line(self) -> str:
        with contextlib.suppress(OSError, IndexError):
            return self.log.read_text(errors="replace").strip().splitlines()[-1][:300]
        return "no log"


class Nest:
    """The process that forks the workers; see tests/faults/nest.py."""

    def __init__(self) -> None:
        self._workers: dict[int, Worker] = {}
        self._changed = threading.Condition()
        self._is_ready = threading.Event()
        self._num_workers = 0

    def __enter__(self) -> Self:
        variables = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.nest"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=variables, cwd=REPOSITORY,
        )  # fmt: skip
        assert self._process.stdin is not None and self._process.stdout is not None
        threading.Thread(target=self._listen, args=(self._process.stdout,), daemon=True).start()
        if not self._is_ready.wait(180) or self._process.poll() is not None:
            raise RuntimeError("the nest of the workers did not start; its reason stands above")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)

    def start(self, log: Path, **request: Any) -> Worker:
        """Start a worker whose log goes to `log` and its number."""
        self._num_workers += 1
        number = self._num_workers
        worker = Worker(number=number, log=log.with_name(f"{log.name}-{number}.log"))
        self._workers[number] = worker
        line = json.dumps({"number": number, "log": str(worker.log), "marker": MARKER, **request})
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()
        with self._changed:
            self._changed.wait_for(lambda: worker.pid, 30)
        return worker

    def wait_ended(self, worker: Worker, seconds: float) -> bool:
        """Whether `worker` has ended within `seconds`."""
        with self._changed:
            return self._changed.wait_for(lambda: worker.status is not None, max(0.0, seconds))

    def _listen(self, lines: IO[bytes]) -> None:
        for line in lines:
            told = json.loads(line)
            with self._changed:
                if "status" in told:
                    worker = self._workers.pop(told["number"])
                    worker.status, worker.ended_at = told["status"], time.monotonic()
                elif "pid" in told:
                    self._workers[told["number"]].pid = told["pid"]
                self._changed.notify_all()
            self._is_ready.set()
        self._is_ready.set()


class Crew:
    """Who works in this run."""

    def __init__(self, plan: Plan, start: Callable[[], Worker]) -> None:
        self._start = start
        self._moves: list[Move] = list(plan.moves)
        self._replacements: list[float] = []
        self._began = time.monotonic()
        self._lock = threading.RLock()
        self._wakers: list[threading.Thread] = []
        self.workers = [start() for _ in range(plan.num_workers)]

    def kill(self, number: int, seconds: float) -> bool:
        """SIGKILL, and somebody else `seconds` later."""
        worker = self._find(number)
        with self._lock:
            worker.was_killed = True
            os.kill(worker.pid, signal.SIGKILL)
            self._replacements.append(time.monotonic() + seconds)
        return True

    def stop(self, number: int, seconds: float) -> bool:
        """SIGTERM in `seconds`, and somebody else when it has come."""
        worker = self._find(number)
        stopper = threading.Thread(target=self._ask_later, args=(worker, seconds))
        self._wakers.append(stopper)
        stopper.start()
        return True

    def put_to_sleep(self, number: int, seconds: float) -> bool:
        """SIGSTOP, and SIGCONT `seconds` later, when others have its partitions."""
        worker = self._find(number)
        with self._lock:
            if worker.is_asleep or worker.was_killed:
                return False
            worker.is_asleep = True
            os.kill(worker.pid, signal.SIGSTOP)
            waker = threading.Thread(target=self._wake_later, args=(worker, seconds))
            self._wakers.append(waker)
            waker.start()
        return True

    def tend(self, *, can_join: bool) -> None:
        """Do what is due: who joins, who leaves; and let somebody be there always."""
        now = time.monotonic()
        with self._lock:
            while self._moves and self._began + self._moves[0].at_seconds <= now:
                self._move(self._moves.pop(0), can_join)
            due = [at for at in self._replacements if at <= now]
            there = [worker for worker in self.workers if worker.is_there]
            if can_join and len(there) < MOST_WORKERS and (due or not there):
                self._replacements = [at for at in self._replacements if at > now]
                self.workers.append(self._start())

    def settle(self) -> None:
        """Wait until nobody sleeps."""
        for waker in self._wakers:
            waker.join()

    def dismiss(self, wait_ended: Callable[[Worker, float], bool]) -> None:
        """Ask all who are left to leave, and end whoever is late."""
        with self._lock:
            for worker in self.workers:
                self._ask(worker)
        for worker in self.workers:
            left = STOP_SECONDS if worker.asked_at is None else worker.asked_at + STOP_SECONDS - time.monotonic()
            if not wait_ended(worker, left):
                os.kill(worker.pid, signal.SIGKILL)
                wait_ended(worker, 10)

    def _find(self, number: int) -> Worker:
        return next(worker for worker in self.workers if worker.number == number)

    def _move(self, move: Move, can_join: bool) -> None:
        there = [worker for worker in self.workers if worker.is_there]
        if move.joins and can_join and len(there) < MOST_WORKERS:
            self.workers.append(self._start())
        elif not move.joins and len(there) > 1:
            self._ask(there[int(move.place * len(there))])

    def _ask(self, worker: Worker) -> None:
        if worker.status is None and worker.asked_at is None and not worker.was_killed:
            worker.asked_at = time.monotonic()
            os.kill(worker.pid, signal.SIGTERM)

    def _ask_later(self, worker: Worker, seconds: float) -> None:
        time.sleep(seconds)
        with self._lock:
            self._ask(worker)
            self._replacements.append(time.monotonic())

    def _wake_later(self, worker: Worker, seconds: float) -> None:
        time.sleep(seconds)
        with self._lock:
            worker.is_asleep = False
            if worker.status is None:
                os.kill(worker.pid, signal.SIGCONT)
