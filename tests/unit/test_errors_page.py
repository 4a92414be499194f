"""The page of errors: everything escaped and local, groups by evidence, memory bounded."""

import re
import shutil
from collections.abc import Sequence
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from model.data import Dataset, ImageFolder, Sentence
from model.error_groups import Group
from model.error_posts import CHUNK_POSTS
from model.errors import DataError
from model.errors_page import PageConfig, PageReport, write_errors_page
from model.tagging import TaggedSpan, Tagging, TaggingInput

HOSTILE = (
    "<script>alert(1)</script>",
    "\"'><img/src=x/onerror=alert(2)>",
    "</bdi></dd></article>",
    "\u202eevil\u2066",
    "\x00\x1b[31m",
    "https://example.com/",
    "&amp;",
    "\ud83d",
)


class FakeTagger:
    """Calls the first word PER where it sees a picture, LOC where it sees none, ORG where all regions are alike."""

    uses_image = True

    def __init__(self) -> None:
        self.most_posts = 0

    def look(self, pixels: np.ndarray) -> np.ndarray:
        """Regions that differ."""
        return np.tile(np.arange(49, dtype=np.float16).reshape(1, 49, 1), (len(pixels), 1, 4))

    def tag(self, inputs: Sequence[TaggingInput]) -> list[Tagging]:
        """One name a post."""
        self.most_posts = max(self.most_posts, len(inputs))
        return [self._tagging(post) for post in inputs]

    def _tagging(self, post: TaggingInput) -> Tagging:
        seen = post.features
        kind = "LOC" if seen is None else "ORG" if bool((seen == seen[0]).all()) else "PER"
        span = TaggedSpan(type=kind, start=post.tokens[0].start, end=post.tokens[0].end, confidence=0.5)
        if seen is None:
            return Tagging(spans=(span,))
        return Tagging(spans=(span,), attention=(1 / 49,) * 49, gate=(0.25,) * len(post.tokens))


class Page(HTMLParser):
    """What a browser would find on the page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, name: str) -> list[str]:
        """The values of an attribute, in order."""
        return [value for _, attribute, value in self.attributes if attribute == name]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Good pictures, a small one, a blurred one and a broken one."""
    folder = tmp_path / "images"
    folder.mkdir()
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (150, 200, 3), dtype=np.uint8))
    noise.save(folder / "good.png")
    noise.resize((90, 120)).save(folder / "small.png")
    Image.new("RGB", (150, 200), "grey").save(folder / "blurred.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def sentence(gold: str, image_id: str | None, words: tuple[str, ...] = ("Paris", "again")) -> Sentence:
    tags = (f"B-{gold}", *["O"] * (len(words) - 1))
    return Sentence(words, tags, tags, image_id)


def written(out: Path, images: Path | None, *sentences: Sentence, **options: Any) -> tuple[PageReport, Page]:
    """Write the page of `sentences`; `options` are a tagger and max_posts."""
    data = Dataset(sentences, 0, "0" * 64, "<data>&.txt")
    folder = None if images is None else ImageFolder(images)
    config = PageConfig(checkpoint='"check"<point>', max_posts=options.get("max_posts", 50))
    report = write_errors_page(out, options.get("tagger", FakeTagger()), data, folder, config)
    return report, Page(report.page)


def test_errors_land_in_the_group_of_their_evidence(tmp_path: Path, images: Path) -> None:
    """What the caption alone gets right is unrelated, what an even attention does is astray."""
    report, page = written(
        tmp_path / "out",
        images,
        sentence("LOC", "good"),
        sentence("ORG", "good"),
        sentence("MISC", "good"),
        sentence("PER", "good"),
        *(sentence("MISC", name) for name in ("small", "blurred", "broken", "gone")),
        sentence("PER", None),
    )
    assert report.num_posts == 9
    assert report.num_wrong == {Group.UNRELATED: 1, Group.ASTRAY: 1, Group.TEXT: 2, Group.POOR: 4}
    posts = [value for value in page.values("id") if value.startswith("post-")]
    assert posts == ["post-1", "post-5", "post-6", "post-7", "post-8", "post-2", "post-3", "post-9"]
    assert "8 of 9 posts" in page.text


def test_without_a_folder_no_picture_is_blamed(tmp_path: Path) -> None:
    """Whoever gives no pictures learns what the words are to blame for, and not that pictures are missing."""
    report, page = written(tmp_path / "out", None, sentence("MISC", "good"))
    assert report.num_wrong[Group.TEXT] == 1
    assert "img" not in page.tags


def test_no_word_of_a_post_becomes_markup(tmp_path: Path, images: Path) -> None:
    """Tags, quotes, entities, control characters and bidirectional marks of a post are shown, not obeyed."""
    _, page = written(tmp_path / "out", images, sentence('X"><b>', "good", HOSTILE), sentence("MISC", '"><i>', HOSTILE))
    assert {"script", "a", "img"} & set(page.tags) == {"a", "img"}
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    for word in ("<script>alert(1)</script>", "\"'><img/src=x/onerror=alert(2)>", "</bdi></dd></article>", "&amp;"):
        assert word in page.text
    assert "<data>&.txt" in page.text
    assert '"check"<point>' in page.text
    assert not set("\u202e\u2066\x00\x1b\ud83d") & set(page.text)
    assert page.tags.count("article") == 2


def test_every_link_is_local_and_leads_somewhere(tmp_path: Path, images: Path) -> None:
    """The page asks for nothing but its own pictures, which are there, and its anchors exist."""
    report, page = written(tmp_path / "out", images, sentence("LOC", "good", HOSTILE), sentence("MISC", "small"))
    sources = page.values("src")
    assert len(sources) == 4
    for source in sources:
        assert not re.match(r"[a-z]+:|/|\.\.", source)
        with Image.open(report.page.parent / source) as picture:
            assert max(picture.size) <= 480
    ids = page.values("id")
    assert len(set(ids)) == len(ids)
    assert all(link[1:] in ids for link in page.values("href") if link.startswith("#"))
    assert all(link.startswith("#") for link in page.values("href"))
    assert not {"link", "iframe", "object", "script"} & set(page.tags)
    assert "url(" not in report.page.read_text(encoding="utf-8")


def test_the_page_can_be_heard(tmp_path: Path, images: Path) -> None:
    """A language, one first heading, no level left out, and an alternative text for every picture."""
    _, page = written(tmp_path / "out", images, sentence("LOC", "good"), sentence("MISC", "good"))
    levels = [int(tag[1]) for tag in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    alternatives = page.values("alt")
    assert len(alternatives) == page.tags.count("img") == 4
    assert len(set(alternatives)) == 4
    assert ("html", "lang", "en") in page.attributes


def test_a_limit_bounds_the_page_and_not_the_count(tmp_path: Path, images: Path) -> None:
    """Beyond the limit posts of a group are counted, but neither shown nor are their pictures written."""
    tagger = FakeTagger()
    report, page = written(tmp_path / "out", images, *[sentence("LOC", "good")] * 70, max_posts=3, tagger=tagger)
    assert tagger.most_posts <= CHUNK_POSTS
    assert report.num_wrong[Group.UNRELATED] == 70
    assert page.tags.count("article") == 3
    assert len(list((tmp_path / "out" / "pictures").iterdir())) == 6
    assert "70 posts, of which the first 3 are shown" in page.text


def test_long_posts_are_cut_visibly(tmp_path: Path, images: Path) -> None:
    """A post of 10,000 words takes no more of the page than a screen, and says that it goes on."""
    report, page = written(tmp_path / "out", images, sentence("LOC", "good", ("word",) * 10_000))
    assert "characters more" in page.text
    assert "words more" in page.text
    assert report.page.stat().st_size < 40_000


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    """A file in the folder's place is told, with what to do."""
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="name another folder with --out"):
        written(tmp_path / "file" / "out", None, sentence("LOC", None))


def test_copies_of_one_picture_are_no_picture(tmp_path: Path, images: Path) -> None:
    """A picture that stands under several ids is as good as missing, as it is to `nametag evaluate`."""
    shutil.copy(images / "good.png", images / "copy.png")
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 255, (150, 200, 3), dtype=np.uint8))
    noise.save(images / "other.png")
    posts = [sentence("MISC", name) for name in ("good", "copy", "copy", "other")]
    report, page = written(tmp_path / "out", images, *posts)
    assert report.num_wrong[Group.POOR] == 3
    assert page.tags.count("img") == 2


def test_a_decompression_bomb_is_a_broken_picture(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture of too many pixels for Pillow doesn't end the page."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    report, _ = written(tmp_path / "out", images, sentence("MISC", "good"))
    assert report.num_wrong[Group.POOR] == 1
