"""Nearly two thousand hostile pictures through one `Decoder`: each ends as pixels or a status, and as the right one."""

import asyncio
import multiprocessing
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from consumers.image_status import ImageStatus
from tests.pictures.cases import Hostile, Wanted
from tests.pictures.hostile import hostile_pictures
from worker.decode import DecodeLimits, Decoder, decode
from worker.decode_line import Pixels
from worker.errors import ImageError

LIMITS = DecodeLimits(max_pixels=4_000_000, memory_bytes=192 << 20, seconds=10, processes=2)
AT_ONCE = 4


@dataclass(frozen=True, kw_only=True)
class Ending:
    """What became of a picture: its pixels, or why it has none; None for both where the decoder itself failed."""

    pixels: Pixels | None
    status: ImageStatus | None
    detail: str
    seconds: float


async def decode_all(cases: list[Hostile]) -> tuple[list[Ending], int, int]:
    """The endings, how many processes were used up, and the most memory that one of the last had, in kB."""
    endings: dict[int, Ending] = {}
    waiting = iter(enumerate(cases))
    seen_processes = set()

    async def work(decoder: Decoder) -> None:
        for number, case in waiting:
            start = time.monotonic()
            try:
                pixels, status, detail = await decoder.decode(case.data), None, ""
            except ImageError as error:
                pixels, status, detail = None, error.status, str(error)
            seconds = time.monotonic() - start
            endings[number] = Ending(pixels=pixels, status=status, detail=detail, seconds=seconds)
            seen_processes.update(process.pid for process in multiprocessing.active_children())

    async with Decoder(LIMITS) as decoder:
        # So that the times are of pictures alone; the decoder has no use for an event of it.
        while decoder._num_up < LIMITS.processes:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(work(decoder))
        peak = max(_peak_kilobytes(process.pid) for process in multiprocessing.active_children())
    return [endings[number] for number in range(len(cases))], len(seen_processes), peak


def _peak_kilobytes(pid: int | None) -> int:
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return 0
    return next((int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")), 0)


def is_right(case: Hostile, ending: Ending, sound: dict[bytes, str]) -> bool:
    """Whether this may become of it; `sound` has the digest of each picture that others were made of."""
    if case.wanted is Wanted.ANY:
        return True
    if ending.pixels is None:
        return case.wanted is not Wanted.SAME
    return case.wanted is not Wanted.REFUSED and ending.pixels.digest == sound[case.made_of]


def table(cases: list[Hostile], endings: list[Ending]) -> str:
    """Counts by kind and outcome."""
    kinds = list(dict.fromkeys(sorted(case.kind for case in cases)))
    counts = Counter((case.kind, str(ending.status or "pixels")) for case, ending in zip(cases, endings, strict=True))
    outcomes = sorted({outcome for _, outcome in counts})
    lines = ["kind".ljust(12) + "".join(outcome.rjust(13) for outcome in [*outcomes, "all"])]
    for kind in kinds:
        row = [counts[kind, outcome] for outcome in outcomes]
        lines.append(kind.ljust(12) + "".join(str(number).rjust(13) for number in [*row, sum(row)]))
    columns = [sum(counts[kind, outcome] for kind in kinds) for outcome in outcomes]
    lines.append("all".ljust(12) + "".join(str(number).rjust(13) for number in [*columns, len(cases)]))
    return "\n".join(lines)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 5))])
def test_no_hostile_picture_does_harm_or_passes_for_another(seed: int) -> None:
    """None takes the worker along or longer than the deadline, and none that is damaged is used for what it was.

    What may be used though bytes of it were changed is told in `Wanted` and in tests/pictures/:
    a format without checksums whose own decoder takes the data for whole.
    """
    cases = hostile_pictures(seed)
    assert len(cases) >= 500
    sound = {case.data: decode(case.data, DecodeLimits()).digest for case in cases if case.kind == "sound"}
    sound |= {case.made_of: decode(case.made_of, DecodeLimits()).digest for case in cases if case.wanted is Wanted.SAME}
    start = time.monotonic()
    endings, num_processes, peak = asyncio.run(decode_all(cases))
    print("\n" + table(cases, endings))
    slowest = max(zip(endings, cases, strict=True), key=lambda pair: pair[0].seconds)
    print(f"{time.monotonic() - start:.0f} s; the slowest {slowest[0].seconds:.1f} s ({slowest[1].name})")
    print(f"{num_processes} processes for {LIMITS.processes} places; at most {peak // 1024} MB in one")
    wrong = [
        (case.kind, case.name, case.wanted, ending.status, ending.detail)
        for case, ending in zip(cases, endings, strict=True)
        if not is_right(case, ending, sound)
    ]
    assert wrong == []
    assert {ending.status for ending in endings} <= {
        None,
        ImageStatus.BAD_IMAGE,
        ImageStatus.TOO_LARGE,
        ImageStatus.UNSUPPORTED,
    }
    # Each may wait for those before it, but none of them for longer than the limit.
    assert slowest[0].seconds < LIMITS.seconds * AT_ONCE
    assert num_processes == LIMITS.processes
    assert peak < (LIMITS.memory_bytes >> 10) + 200_000
