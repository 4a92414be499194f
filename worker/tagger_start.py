"""Which tagger the settings ask for; and its process, begun before the rest of the worker is imported."""

from pathlib import Path

from worker.settings import Settings
from worker.tagger_link import TaggerLink
from worker.tagger_wire import TaggerSpec


def tagger_spec(settings: Settings, path: Path, *, may_download: bool = True) -> TaggerSpec:
    """The tagger in `path`, on what the settings say."""
    return TaggerSpec(
        path=path,
        device=settings.device,
        tower_precision=settings.tower_precision,
        threads=settings.threads,
        may_download=may_download,
    )


def has_process(settings: Settings) -> bool:
    """Whether taggers have processes of their own."""
    # A CUDA device's tower looks ahead, and has it from the worker's own process.
    return settings.tagger_process and settings.device == "cpu"


def begin_tagger(settings: Settings) -> TaggerLink | None:
    """The process of the configured checkpoint's tagger, which imports torch while this one imports the worker.

    None where it is to have none. Raises `TaggerDied` where it can't be started.
    """
    return TaggerLink(tagger_spec(settings, settings.checkpoint)) if has_process(settings) else None
