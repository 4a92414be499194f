"""Worker processes in a hundredth of a second each: one process imports all, and forks at every request.

A line of JSON on standard input starts a worker; lines of JSON on standard output tell its process and,
later on, its exit status. When standard input ends, so do the workers.
"""

# A worker's decoding process imports this module anew, so that what is heavy is imported in functions.
import atexit
import contextlib
import gc
import json
import os
import select
import signal
import sys
import threading
import traceback
from typing import Any, NoReturn

TICK_SECONDS = 0.02


def main() -> int:
    """Fork workers until the input ends. In a worker: run it, and give back its status."""
    _preload()
    _tell(ready=True)
    running: dict[int, int] = {}
    rest = b""
    while True:
        ready, _, _ = select.select([0], [], [], TICK_SECONDS)
        if ready:
            data = os.read(0, 1 << 16)
            if not data:
                _kill(running)
                return 0
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                request = json.loads(line)
                if not (pid := os.fork()):
                    _become_worker(request)
                running[pid] = request["number"]
                _tell(number=request["number"], pid=pid)
        _reap(running)


def _preload() -> None:
    import numpy as np
    import torch

    import worker.cli
    import worker.logs
    import worker.service  # noqa: F401 # imported so that no worker has to
    from model.inference import Tagger
    from model.tagging import TaggingInput
    from tests.faults import stepped_worker
    from worker.settings import STARTER_CHECKPOINT

    stepped_worker.check_places()
    # Tagging imports more than half of torch; without threads, which would not outlive a fork.
    torch.set_num_threads(1)
    tagger = Tagger.load(STARTER_CHECKPOINT)
    features = tagger.look(np.zeros((1, 3, 224, 224), np.uint8))
    tagger.tag([TaggingInput(tokens=tagger.tokenize("a post"), features=features[0])])
    gc.freeze()


def _tell(**fields: Any) -> None:
    os.write(1, json.dumps(fields).encode() + b"\n")


def _reap(running: dict[int, int]) -> None:
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        _sweep(pid)
        if pid in running:
            _tell(number=running.pop(pid), status=os.waitstatus_to_exitcode(status))


def _sweep(pid: int) -> None:
    """End what a worker that was killed has left behind; each has a process group of its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _kill(running: dict[int, int]) -> None:
    for pid in running:
        _sweep(pid)


def _become_worker(request: dict[str, Any]) -> NoReturn:
    os.setpgid(0, 0)
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for ours, number in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(ours, number)
    for name in [name for name in os.environ if name.startswith("NAMETAG_")]:
        del os.environ[name]
    os.environ.update(request["variables"])
    from tests.faults import stepped_worker

    status = stepped_worker.run(request["number"], request["socket"], request["armed"], request["marker"])
    _exit(status)


def _exit(status: int) -> NoReturn:
    """As the interpreter ends, threads and exit functions included; but all that was imported isn't taken apart.

    That would write to every page that a fork shares, which takes seconds.
    """
    try:
        threading._shutdown()  # type: ignore[attr-defined] # what the interpreter itself calls
    except Exception:
        # The interpreter, too, prints it and goes on: a pool of processes may be closed twice.
        traceback.print_exc()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    sys.exit(main())
