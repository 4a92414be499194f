"""`nametag demo`: the main job on the embedded default, over example posts, for a person to watch.

The example posts stand in `worker/examples`; their pictures are served by a real HTTP server on
loopback and fetched from it, as any worker fetches them.
"""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web
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
from worker.service import Files, run_worker
from worker.settings import Settings
from worker.show import show

EXAMPLES = Path(__file__).parent / "examples"

IMAGE_HOST = "http://images.example"
"""Stands for the loopback server's address in the example posts, which learn it when it runs."""


async def run_demo(folder: Path, settings: Settings, console: Console) -> Path:
    """Tag the example posts, print them as they come, and give back the file of the events."""
    files = Files(
        posts=str(folder / "posts.jsonl"),
        events=str(folder / "events.jsonl"),
        dead_letters=str(folder / "dead-letters.jsonl"),
    )
    start = time.perf_counter()
    async with _serve_pictures() as origin:
        num_posts = _write_posts(Path(files.posts), origin)
        images = settings.images.model_copy(update={"allow_origins": frozenset({origin})})
        with _progress(console) as progress:
            task = progress.add_task("starting", total=num_posts)

            def tell(outcome: Outcome) -> None:
                progress.update(task, description="tagging", advance=1)
                show(outcome, progress.console)

            settings = settings.model_copy(update={"images": images, "include_attention": True})
            metrics = await run_worker(settings, files, on_outcome=tell)
    counted = {
        sample.labels["outcome"]: int(sample.value)
        for metric in metrics.posts.collect()
        for sample in metric.samples
        if sample.name.endswith("_total")
    }
    console.print(
        f"\n{counted.get('event', 0)} posts tagged, {counted.get('dead_letter', 0)} dead letters, "
        f"in {time.perf_counter() - start:.1f} s, the start included."
    )
    console.print(f"Posts, events and dead letters, one JSON object a line: {folder}/")
    return Path(files.events)


def _write_posts(path: Path, origin: str) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (EXAMPLES / "posts.jsonl").read_text(encoding="utf-8").replace(IMAGE_HOST, origin)
    path.write_text(lines, encoding="utf-8")
    return len(lines.splitlines())


@asynccontextmanager
async def _serve_pictures() -> AsyncIterator[str]:
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
