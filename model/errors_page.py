"""A static page of a data set's errors: pictures, attention, gates, gold and predicted names, by group.

One HTML file and a folder of small pictures; no script, nothing from elsewhere, and every word of a post escaped.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from PIL import Image

from model.captions import OTHER_PAINT, PAINTS, NamedSpan, Paint, harmless, pieces_of
from model.data import Dataset, ImageFolder
from model.error_groups import Evidence, Group, GroupRules
from model.error_posts import ErrorPost, SeeingTagger, find_errors
from model.errors import DataError
from model.heatmap import overlay, spread_of
from model.pictures import thumbnail

PAGE = "index.html"
PICTURES = "pictures"
MAX_CHARACTERS = 2_000
MAX_GATES = 60

_STYLE = Path(__file__).with_name("errors_page.css")
_PICTURE_SIDE = 480
# A second lock: were a word of a post to slip through, it could neither run nor load a thing.
_POLICY = "default-src 'none'; img-src 'self' file:; style-src 'unsafe-inline'"


@dataclass(frozen=True, slots=True, kw_only=True)
class PageConfig:
    """What the page calls the checkpoint, how many posts of a group it shows, and where groups begin."""

    checkpoint: str
    max_posts: int = 50
    rules: GroupRules = field(default_factory=GroupRules)


@dataclass(frozen=True, slots=True, kw_only=True)
class PageReport:
    """The page that was written, the posts that were read, and how many are wrong in each group."""

    page: Path
    num_posts: int
    num_wrong: dict[Group, int]


def write_errors_page(
    out: Path,
    tagger: SeeingTagger,
    data: Dataset,
    folder: ImageFolder | None,
    config: PageConfig,
    on_progress: Callable[[int], None] = lambda _num_posts: None,
) -> PageReport:
    """Write `index.html` and `pictures/` into `out`: every error is counted, `max_posts` of each group are shown.

    Raises a `DataError` where `out` can't be written.
    """
    counts = Counter[Group]()
    articles: dict[Group, list[str]] = {group: [] for group in Group}
    try:
        (out / PICTURES).mkdir(parents=True, exist_ok=True)
        for post in find_errors(tagger, data, folder, config.rules, on_progress):
            counts[post.group] += 1
            if counts[post.group] <= config.max_posts:
                articles[post.group].append(_article(post, out))
        report = PageReport(page=out / PAGE, num_posts=len(data.sentences), num_wrong={g: counts[g] for g in Group})
        report.page.write_text(_page(report, data, config, articles), encoding="utf-8")
    except OSError as error:
        raise DataError(f"{out} can't be written ({error.strerror}); name another folder with --out") from error
    return report


def _page(report: PageReport, data: Dataset, config: PageConfig, articles: dict[Group, list[str]]) -> str:
    num_wrong = sum(report.num_wrong.values())
    title = f"Errors of {_safe(config.checkpoint)} on {_safe(data.name)}"
    sections = "".join(_section(group, report.num_wrong[group], articles[group], config) for group in Group)
    rows = "".join(
        f'<tr><th scope="row"><a href="#{_anchor(group)}">{group}</a></th>'
        f'<td class="number">{report.num_wrong[group]}</td><td>{config.rules.explain(group)}</td></tr>\n'
        for group in Group
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{_STYLE.read_text(encoding="utf-8")}{_type_colours()}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p>{num_wrong} of {report.num_posts} posts have a name that was missed, or one that is wrong.
<span class="faint">Data: sha256 {data.digest[:12]}.</span></p>
</header>
<main>
<table>
<caption>The groups of Lu et al. (2018), section 4.4; a post is in the first whose rule holds, image poor first of all.
“Better” is fewer errors: names missed and names wrong.</caption>
<thead><tr><th scope="col">group</th><th scope="col">posts</th><th scope="col">rule</th></tr></thead>
<tbody>
{rows}</tbody>
</table>
{sections}</main>
</body>
</html>
"""


def _section(group: Group, count: int, articles: list[str], config: PageConfig) -> str:
    shown = f"{count} posts" if count != 1 else "1 post"
    if count > len(articles):
        shown += f", of which the first {len(articles)} are shown (--limit {config.max_posts})"
    name = _anchor(group)
    return (
        f'<section aria-labelledby="{name}">\n<h2 id="{name}">{str(group).capitalize()}</h2>\n'
        f'<p class="faint">{shown}.</p>\n{"".join(articles)}</section>\n'
    )


def _article(post: ErrorPost, out: Path) -> str:
    named = "" if post.image_id is None else f" <small>IMGID {_safe(post.image_id)}</small>"
    rows = [
        ("gold", _caption(post, post.gold, post.missed, "missed")),
        ("predicted", _caption(post, post.tagging.spans, post.wrong, "wrong")),
    ]
    if post.evidence.num_errors_without_picture is not None and post.without_picture != post.tagging.spans:
        rows.append(("without the picture", _caption(post, post.without_picture, post.wrong_without_picture, "wrong")))
    rows.append(("why this group", _why(post.evidence)))
    if post.tagging.gate is not None:
        rows.append(("gate by word", _gates(post)))
    described = "".join(f"<dt>{term}</dt><dd>{told}</dd>\n" for term, told in rows)
    return (
        f'<article id="post-{post.number}">\n<h3>Post {post.number}{named}</h3>\n'
        f"{_pictures(post, out)}<dl>\n{described}</dl>\n</article>\n"
    )


def _pictures(post: ErrorPost, out: Path) -> str:
    if post.picture is None:
        return ""
    picture = thumbnail(post.picture, _PICTURE_SIDE)
    plain = f"{PICTURES}/{post.number:06d}.jpg"
    picture.save(out / plain, quality=82)
    figures = _figure(plain, picture, f"The picture of post {post.number}", "the picture")
    attention = post.tagging.attention
    if attention is not None:
        under = f"{PICTURES}/{post.number:06d}-attention.jpg"
        overlay(picture, attention).save(out / under, quality=82)
        side = round(len(attention) ** 0.5)
        row, column = divmod(max(range(len(attention)), key=attention.__getitem__), side)
        peak = f"row {row + 1}, column {column + 1} of {side}×{side} has {max(attention):.1%}"
        figures += _figure(
            under,
            picture,
            f"The attention over the picture of post {post.number}: the peak in {peak} of it",
            f"the attention: {peak}; spread over {spread_of(attention):.0f} of {len(attention)} regions",
        )
    return f'<div class="pictures">\n{figures}</div>\n'


def _figure(source: str, picture: Image.Image, alternative: str, caption: str) -> str:
    return (
        f'<figure><img src="{source}" width="{picture.width}" height="{picture.height}" loading="lazy" '
        f'alt="{alternative}"><figcaption>{caption}</figcaption></figure>\n'
    )


def _caption(post: ErrorPost, spans: Iterable[NamedSpan], errors: frozenset[tuple[str, int, int]], error: str) -> str:
    shown = [span for span in spans if span.end <= MAX_CHARACTERS]
    is_error = iter([(span.type, span.start, span.end) in errors for span in shown])
    told = ""
    for piece in pieces_of(post.text[:MAX_CHARACTERS], shown):
        if not piece.type:
            told += escape(piece.text)
            continue
        is_wrong = next(is_error)
        kind = f"type-{piece.type}" if piece.type in PAINTS else "type-other"
        label = f"{_safe(piece.type)}, {error}" if is_wrong else _safe(piece.type)
        told += f'<mark class="{kind}{" error" if is_wrong else ""}">{escape(piece.text)} <b>{label}</b></mark>'
    if len(post.text) > MAX_CHARACTERS:
        told += f" <span class=faint>… and {len(post.text) - MAX_CHARACTERS} characters more</span>"
    # Isolated, in the direction of its own first letter: a post must not turn the page around it.
    return f'<bdi dir="auto">{told}</bdi>'


def _why(evidence: Evidence) -> str:
    told = [f"errors: {evidence.num_errors}"]
    if evidence.num_errors_without_picture is not None:
        told.append(f"without the picture: {evidence.num_errors_without_picture}")
    if evidence.num_errors_levelled is not None:
        told.append(f"with all regions alike: {evidence.num_errors_levelled}")
    if evidence.picture is not None:
        told.append(f"shorter side: {evidence.picture.shorter_side} px")
        told.append(f"sharpness: {evidence.picture.sharpness:.0f}")
    elif evidence.names_picture:
        told.append("the picture is missing, can't be read, or stands under several ids")
    return "; ".join(told)


def _gates(post: ErrorPost) -> str:
    gates = post.tagging.gate or ()
    words = [
        f'<li><bdi>{_safe(token.text[:40])}</bdi><i style="--g:{gate:.3f}"></i><small>{gate:.2f}</small></li>'
        for token, gate in zip(post.tokens[:MAX_GATES], gates, strict=False)
    ]
    if len(gates) > MAX_GATES:
        words.append(f"<li class=faint>… and {len(gates) - MAX_GATES} words more</li>")
    return f'<ul class="gate">{"".join(words)}</ul>'


def _type_colours() -> str:
    paints = {**PAINTS, "other": OTHER_PAINT}

    def rules(ground: Callable[[Paint], str], ink: Callable[[Paint], str]) -> str:
        return "".join(
            f".type-{name} {{ --type-ground: {ground(paint)}; --type-ink: {ink(paint)}; }}\n"
            for name, paint in paints.items()
        )

    light = rules(lambda paint: paint.ground, lambda paint: paint.ink)
    dark = rules(lambda paint: paint.dark_ground, lambda paint: paint.dark_ink)
    return f"{light}@media (prefers-color-scheme: dark) {{\n{dark}}}\n"


def _anchor(group: Group) -> str:
    return str(group).replace(" ", "-")


def _safe(text: str) -> str:
    return escape(harmless(text))
