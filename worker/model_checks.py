"""Whether there is a tagger, and something to run it on: checkpoint, device, memory, threads."""

import os
from collections.abc import Callable
from pathlib import Path

from consumers.checks import Check, Checklist, Found, Trouble, ok
from worker.settings import Settings
from worker.watch_checks import watched_file

LOAD_SECONDS = 60.0
CGROUP = Path("/sys/fs/cgroup")
LATE = "try again while this machine has less to do: torch alone takes seconds to load"
CPU_FIX = "set device to cpu"
CHECKPOINT_FIX = "set checkpoint (NAMETAG_CHECKPOINT) to a file that `nametag train` made, its tower beside it"


def check_model(
    settings: Settings, *, seconds: float, on_check: Callable[[Check], None] = lambda _check: None
) -> list[Check]:
    """The checks of what runs on this machine, within `seconds`."""
    checklist = Checklist(seconds, on_check)
    checklist.do("images", lambda: _images(settings), late=LATE, seconds=LOAD_SECONDS)
    checklist.do("checkpoint", lambda: _checkpoint(settings.checkpoint), late=LATE, seconds=LOAD_SECONDS)
    if settings.checkpoints.watch is not None:
        watch = settings.checkpoints.watch
        checklist.do("checkpoints.watch", lambda: watched_file(watch), late="look at the disk that it is on")
    checklist.do(
        "device", lambda: _device(settings.device, settings.tower_precision), late=CPU_FIX, seconds=LOAD_SECONDS
    )
    checklist.do("threads", lambda: _threads(settings), late=LATE)
    return checklist.checks


def _images(settings: Settings) -> Found:
    from worker.errors import SettingsError
    from worker.image_settings import fetch_limits

    try:
        fetch_limits(settings.images)
    except SettingsError as error:
        raise Trouble(str(error), "correct it; `nametag init -` tells what each setting takes") from None
    return ok("the limits of fetching pictures make sense")


def _checkpoint(path: Path) -> Found:
    from model.checkpoint import WHAT_TO_DO
    from model.errors import CheckpointError
    from model.inference import Tagger

    try:
        tagger = Tagger.load(path)
    except (CheckpointError, OSError) as error:
        # Its last words are what to do, if it knows. Of the file itself the setting says more.
        seen, _, advice = str(error).rpartition("; ")
        fix = advice if seen and advice != WHAT_TO_DO else CHECKPOINT_FIX
        raise Trouble(f"{path} can't be used: {seen or error}", fix) from None
    tower = "with its tower" if tagger.uses_image else "which looks at no pictures"
    return ok(f"{path.name} is {tagger.checkpoint_id}, {tagger.variant}, {tower}")


def _device(name: str, tower_precision: str = "fp32") -> Found:
    import torch

    from model.cuda_tower import check_precision
    from model.errors import DeviceError

    try:
        device = torch.device(name)
    except RuntimeError:
        raise Trouble(f"{name} is no device", "set device to cpu, cuda or cuda:N") from None
    if device.type == "cuda":
        _check_cuda(device)
    try:
        check_precision(device, tower_precision)
    except DeviceError as error:
        seen, _, advice = str(error).rpartition("; ")
        raise Trouble(seen, advice.replace("set it", "set tower_precision")) from None
    if device.type == "cpu":
        return ok(f"cpu, {_memory_here() / 2**30:.1f} GiB of memory")
    try:
        # To allocate is not enough: a card that this torch has no code for fails when it computes.
        torch.ones(2, device=device).sum().item()
    except (RuntimeError, AssertionError, NotImplementedError):
        raise Trouble(f"torch can't compute on {name}", CPU_FIX) from None
    if device.type != "cuda":
        return ok(name)
    free, total = torch.cuda.mem_get_info(device)
    about = f"{torch.cuda.get_device_name(device)}, {free / 2**30:.1f} GiB of {total / 2**30:.1f} GiB free"
    return ok(f"{name} is {about}, its tower in {tower_precision}")


def _check_cuda(device: "torch.device") -> None:  # type: ignore[name-defined]  # noqa: F821 # torch is slow to import
    import torch

    if torch.version.cuda is None:
        raise Trouble(f"device is {device}, and this torch was made without CUDA", CPU_FIX)
    if not torch.cuda.is_available():
        raise Trouble(
            f"device is {device}, and torch sees no card",
            "install the NVIDIA driver, or give the container its cards (docker run --gpus all), or set device to cpu",
        )
    if device.index is not None and device.index >= torch.cuda.device_count():
        known = ", ".join(f"cuda:{number}" for number in range(torch.cuda.device_count()))
        raise Trouble(f"device is {device}, and there is only {known}", f"set device to one of {known}")


def _threads(settings: Settings) -> Found:
    from worker.tagger_loading import threads_for

    cores = cores_allowed()
    threads = settings.threads or threads_for(settings.device)
    if threads > cores:
        return Found(
            "warn",
            f"the tagger has {threads} threads, and {cores:g} cores to run on",
            f"set threads to {max(1, int(cores) - 1)}",
        )
    return ok(f"the tagger has {threads} of {cores:g} cores")


def cores_allowed(cgroup: Path = CGROUP) -> float:
    """How many cores this process may use: those of the machine, its affinity, and its control group's share."""
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    quota = _words(cgroup / "cpu.max")
    if len(quota) != 2:  # of version 1
        quota = _words(cgroup / "cpu" / "cpu.cfs_quota_us") + _words(cgroup / "cpu" / "cpu.cfs_period_us")
    if len(quota) == 2 and quota[0].isdecimal() and quota[1].isdecimal() and int(quota[1]):
        cores = min(cores, int(quota[0]) / int(quota[1]))
    return cores


def _memory_here() -> int:
    """The machine's memory in bytes, or the control group's, where that is less."""
    here = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in (CGROUP / "memory.max", CGROUP / "memory" / "memory.limit_in_bytes"):
        words = _words(path)
        if words and words[0].isdecimal():
            here = min(here, int(words[0]))
    return here


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return []
