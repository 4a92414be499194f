"""`nametag demo`: the main job on the embedded default, over example posts, for a person to watch.

The example posts stand in `worker/examples`; their pictures are served by a real HTTP server on
loopback and fetched from it, as any worker fetches them.
"""

import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from worker.publish import Outcome
from worker.settings import Settings
from worker.show import show

if TYPE_CHECKING:
    from worker.metrics import Metrics

EXAMPLES = Path(__file__).parent / "examples"

IMAGE_HOST = "http://images.example"
"""Stands for the loopback server's address in the example posts, which learn it when it runs."""

PAIR_LENGTH = 2
"""So many example posts at the start have the same words and different pictures."""
PAIR_HEADLINE = "The same words twice: the picture alone decides what Modern Baseball is."

_IMPORTED = time.monotonic()


async def run_demo(folder: Path, settings: Settings, console: Console) -> Path:
    """Tag the example posts, print them as they come, and give back the file of the events."""
    paths = {name: folder / f"{name}.jsonl" for name in ("posts", "events", "dead-letters")}
    # The bar comes first: all that takes time is imported while it is seen.
    with _progress(console) as progress:
        task = progress.add_task("starting", total=None)
        async with _serve_pictures() as origin:
            progress.update(task, total=_write_posts(paths["posts"], origin))
            images = settings.images.model_copy(update={"allow_origins": frozenset({origin})})
            settings = settings.model_copy(update={"images": images, "include_attention": True})
            num_shown = 0

            def tell(outcome: Outcome) -> None:
                nonlocal num_shown
                progress.update(task, description="tagging", advance=1)
                if num_shown == 0:
                    progress.console.print(PAIR_HEADLINE, style="bold", highlight=False)
                elif num_shown == PAIR_LENGTH:
                    progress.console.print()
                show(outcome, progress.console)
                num_shown += 1

            metrics = await _run_worker(settings, paths, tell)
    counted = {
        sample.labels["outcome"]: int(sample.value)
        for metric in metrics.posts.collect()
        for sample in metric.samples
        if sample.name.endswith("_total")
    }
    console.print(
        f"\n{counted.get('event', 0)} posts tagged, {counted.get('dead_letter', 0)} dead letters, "
        f"in {_seconds_waited():.1f} s, the start included."
    )
    console.print(f"Posts, events and dead letters, one JSON object a line: {folder}/")
    return paths["events"]


async def _run_worker(settings: Settings, paths: dict[str, Path], tell: Callable[[Outcome], None]) -> "Metrics":
    # Seconds of imports, during which the progress bar, which has a thread of its own, is seen.
    from worker.tagger_start import begin_tagger

    first = begin_tagger(settings)
    from worker.service import Files, run_worker

    files = Files(posts=str(paths["posts"]), events=str(paths["events"]), dead_letters=str(paths["dead-letters"]))
    return await run_worker(settings, files, on_outcome=tell, first=first)


def _seconds_waited() -> float:
    """Seconds since this process started, as Linux knows it; elsewhere since this module was imported."""
    try:
        # Field 22, in clock ticks since the boot; the second field may hold spaces, and ends in a bracket.
        ticks = int(Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):
        return time.monotonic() - _IMPORTED


def _write_posts(path: Path, origin: str) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (EXAMPLES / "posts.jsonl").read_text(encoding="utf-8").replace(IMAGE_HOST, origin)
    path.write_text(lines, encoding="utf-8")
    return len(lines.splitlines())


@asynccontextmanager
async def _serve_pictures() -> AsyncIterator[str]:
    from aiohttp import web  # a third of a second of the time until the progress bar is seen

    app = web.Application()
    app.router.add_static("/", EXAMPLES / "images")
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


def _progress(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
