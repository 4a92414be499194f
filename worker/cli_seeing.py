"""The commands that show what the tagger sees: `tag` for one caption, `errors` for a data set."""

import argparse
import asyncio
import io
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from worker.cli_model import add_data, corpus_of

if TYPE_CHECKING:
    from consumers.events import Entity, ImageReport
    from model.cuda_tower import Precision
    from model.inference import Tagger
    from model.tagging import Tagging
    from worker.settings import Settings

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

PICTURE_SIDE = 1024
"""A picture is drawn under its attention at no more than this many pixels a side."""
HEATMAP_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def add_tag(commands: "Commands") -> None:
    """Register `nametag tag`."""
    parser = commands.add_parser(
        "tag",
        help="tag one caption, and see where the tagger looked",
        description="Prints a caption with its names, their types and confidence. With --heatmap, draws the "
        "attention over the picture with the tagged caption under it.",
    )
    parser.add_argument("--text", required=True, metavar="CAPTION", help="the caption")
    parser.add_argument("--image", metavar="FILE", help="its picture: a file, or an http or https URL")
    parser.add_argument("--heatmap", type=Path, metavar="PNG", help="draw the attention into this file")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE",
                        help="the tagger (default: that of the settings, which is the shipped one)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON: the entities as in an entity event")
    parser.set_defaults(run=partial(_tag, parser))


def add_errors(commands: "Commands") -> None:
    """Register `nametag errors`."""
    parser = commands.add_parser(
        "errors",
        help="write a page of a data set's errors",
        description="Writes a static HTML page of the posts that the checkpoint tags wrong, with their pictures, "
        "attention and gates, grouped by what is to blame: an unrelated or poor picture, the attention, or the text.",
    )
    parser.add_argument("checkpoint", type=Path, help="a checkpoint of `nametag train`")
    add_data(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where index.html goes")
    parser.add_argument("--limit", type=_positive, default=50, metavar="N",
                        help="show at most N posts of each group; all are counted (default: %(default)s)")  # fmt: skip
    parser.set_defaults(run=_errors)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


def _tag(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    from rich.console import Console

    from consumers.events import Scissors
    from worker.settings_loading import load_settings
    from worker.show import tagged_line

    if options.heatmap is not None and options.image is None:
        parser.error("--heatmap draws over a picture; name one with --image")
    if options.heatmap is not None and options.heatmap.suffix.lower() not in HEATMAP_SUFFIXES:
        parser.error(f"--heatmap must end in one of {', '.join(HEATMAP_SUFFIXES)}, not {options.heatmap.name!r}")
    settings = load_settings()
    tagger = _load(
        options.checkpoint or settings.checkpoint,
        settings.device,
        settings.tower_precision,
        needs_attention=bool(options.heatmap),
    )
    tagging, report, data = _tagged(tagger, options, settings)
    # What can't be written in UTF-8 came from bytes of the command line that aren't; the offsets stay.
    text = options.text.encode("utf-8", "replace").decode("utf-8")
    scissors = Scissors(text)
    entities = tuple(
        scissors.cut(type=span.type, start=span.start, end=span.end, confidence=span.confidence)
        for span in tagging.spans
    )
    if options.heatmap is not None:
        _draw(options.heatmap, data, text, tagging)
    if options.json:
        _print_json(tagger, text, entities, report)
    else:
        Console().print(tagged_line(text, entities, report.status), soft_wrap=True)


def _load(path: Path, device: str, precision: "Precision" = "fp32", *, needs_attention: bool) -> "Tagger":
    from model.errors import CheckpointError
    from model.inference import Tagger

    tagger = Tagger.load(path, device, tower_precision=precision)
    if needs_attention and not tagger.has_attention:
        raise CheckpointError(
            f"{path.name} is of the variant {tagger.variant}, which attends to no picture; leave out --heatmap, "
            "or name a checkpoint of the variant attention or attention_gate"
        )
    return tagger


def _tagged(
    tagger: "Tagger", options: argparse.Namespace, settings: "Settings"
) -> "tuple[Tagging, ImageReport, bytes | None]":
    """The tagging, what became of the picture, and the picture's bytes where it was looked at."""
    from consumers.events import ImageReport
    from consumers.image_status import ImageStatus
    from model.tagging import TaggingInput
    from worker.one_image import read_image

    tokens = tagger.tokenize(options.text)
    if options.image is None or not tagger.uses_image or not tokens:
        (tagging,) = tagger.tag([TaggingInput(tokens=tokens)])
        return tagging, ImageReport(status=ImageStatus.NONE), None
    image = asyncio.run(read_image(options.image, settings))
    features = tagger.look(image.pixels.values[None])[0]
    (tagging,) = tagger.tag([TaggingInput(tokens=tokens, features=features)])
    report = ImageReport(
        status=ImageStatus.USED,
        url=options.image if image.is_remote else None,
        digest=image.pixels.digest,
        attention=_rows(tagging.attention),
    )
    return tagging, report, image.data


def _rows(attention: tuple[float, ...] | None) -> tuple[tuple[float, ...], ...] | None:
    from consumers.events import REGIONS_PER_SIDE as SIDE

    if attention is None:
        return None
    return tuple(attention[start : start + SIDE] for start in range(0, len(attention), SIDE))


def _draw(path: Path, data: bytes | None, text: str, tagging: "Tagging") -> None:
    from model.errors import DataError
    from model.figure import draw_figure
    from model.pictures import thumbnail

    if data is None or tagging.attention is None:
        raise DataError("the caption holds no word, so there is no attention to draw; leave out --heatmap")
    figure = draw_figure(thumbnail(io.BytesIO(data), PICTURE_SIDE), tagging.attention, text, tagging.spans)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.save(path)
    except OSError as error:
        raise DataError(f"{path} can't be written ({error.strerror}); name another file with --heatmap") from error


def _print_json(tagger: "Tagger", text: str, entities: "tuple[Entity, ...]", report: "ImageReport") -> None:
    import sys

    from consumers import wire
    from consumers.events import CheckpointName

    told = {
        "text": text,
        "entities": [entity.model_dump(exclude_none=True) for entity in entities],
        "image": report.model_dump(exclude_none=True),
        "checkpoint": CheckpointName(id=tagger.checkpoint_id, variant=tagger.variant).model_dump(),
    }
    sys.stdout.buffer.write(wire.dumps(told) + b"\n")
    sys.stdout.buffer.flush()


def _errors(options: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.progress import Progress

    from model.data import ImageFolder
    from model.errors_page import PageConfig, write_errors_page

    data = corpus_of(options, options.data).read()
    folder = None if options.images is None else ImageFolder(options.images)
    tagger = _load(options.checkpoint, "cpu", needs_attention=False)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("reading posts", total=len(data.sentences))
        report = write_errors_page(
            options.out,
            tagger,
            data,
            folder,
            PageConfig(checkpoint=options.checkpoint.name, max_posts=options.limit),
            lambda num_posts: progress.update(task, completed=num_posts),
        )
    groups = ", ".join(f"{count} {group}" for group, count in report.num_wrong.items())
    print(f"{sum(report.num_wrong.values())} of {report.num_posts} posts have errors: {groups}")
    print(f"wrote {report.page}; open it in a browser")
