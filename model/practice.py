"""A practice set that the project draws itself: the picture decides what an ambiguous name is.

After the paper's "Modern Baseball" (figure 1): a band on a stage, or a game on a pitch. Every ambiguous
name comes with every scene equally often and in the same captions, so that the words alone say nothing.
"""

import json
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

from model.labels import Span
from model.tokenizer import tokenize
from model.whole_file import writing

SIDE = 224
SCENES = {"portrait": "PER", "skyline": "LOC", "pitch": "ORG", "stage": "MISC"}
AMBIGUOUS = (
    "Paris", "Jordan", "Chelsea", "Florence", "Phoenix", "Jackson", "Austin", "Lincoln", "Houston", "Charlotte",
    "Modern Baseball", "San Marino",
)  # fmt: skip
AMBIGUOUS_CAPTIONS = (
    "{} was amazing today", "so happy about {} !", "can't stop thinking of {} 😍", "{} , what a night",
    "look at {} #wow", "#{} all day long", "me and {} again", "finally {} 🎉",
)  # fmt: skip
PLAIN_CAPTIONS = (
    ("Mr {} spoke to the class", ("Smith", "Garcia", "Novak", "Okafor", "Kim"), "PER"),
    ("we flew from {} this morning", ("Lisbon", "Nairobi", "Osaka", "Lima", "Oslo"), "LOC"),
    ("{} shares rose after earnings", ("Acme", "Globex", "Initech", "Umbrella", "Hooli"), "ORG"),
    ("now reading {} , chapter two", ("Middlemarch", "Dracula", "Ulysses", "Walden", "Emma"), "MISC"),
)
NAMELESS_CAPTIONS = ("so tired right now", "good morning everyone ☕", "what a beautiful day #nofilter", "lol same")

Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class PracticePost:
    """A caption with its names, and a picture with the box (left, top, right, bottom) that tells."""

    id: str
    text: str
    scene: str | None
    box: Box | None
    name: tuple[int, int, str] | None  # first and last code point, type
    ambiguous: bool


def write_practice_set(folder: Path, *, num_train: int = 1200, num_valid: int = 240, seed: int = 0) -> None:
    """Write `train.txt` and `valid.txt` (CoNLL with IMGID:), `images/` and `index.json` into `folder`.

    Raises `OutputError`.
    """
    with writing(folder):
        (folder / "images").mkdir(parents=True, exist_ok=True)
        index = []
        for split, count in (("train", num_train), ("valid", num_valid)):
            with (folder / f"{split}.txt").open("w", encoding="utf-8") as file:
                for post, picture in practice_posts(split, count, seed):
                    if picture is not None:
                        picture.save(folder / "images" / f"{post.id}.jpg", quality=85)
                    file.write(_conll(post))
                    index.append({"split": split, **asdict(post)})
        (folder / "index.json").write_text(json.dumps(index, ensure_ascii=False, indent=1), encoding="utf-8")


def practice_posts(split: str, count: int, seed: int) -> Iterator[tuple[PracticePost, Image.Image | None]]:
    """`count` posts and their pictures, the same for the same arguments: 6 in 10 have an ambiguous name."""
    chance = random.Random(f"{split} {seed}")
    deck: list[tuple[str, str, str]] = []
    for number in range(count):
        identity = f"{split}_{number:05d}"
        share = number % 10
        if share < 6:
            if not deck:
                # A whole deck at a time: each name with each scene in each caption, exactly once.
                deck = [(n, s, c) for n in AMBIGUOUS for s in SCENES for c in AMBIGUOUS_CAPTIONS]
                chance.shuffle(deck)
            name, scene, caption = deck.pop()
            picture, box = draw(scene, chance)
            yield _post(identity, caption, name, SCENES[scene], scene, box, ambiguous=True), picture
        elif share < 9:
            caption, names, type_ = chance.choice(PLAIN_CAPTIONS)
            unrelated = chance.choice((*SCENES, None))
            shown, place = (None, None) if unrelated is None else draw(unrelated, chance)
            yield _post(identity, caption, chance.choice(names), type_, unrelated, place, ambiguous=False), shown
        else:
            scene = chance.choice(tuple(SCENES))
            picture, box = draw(scene, chance)
            text = chance.choice(NAMELESS_CAPTIONS)
            yield PracticePost(id=identity, text=text, scene=scene, box=box, name=None, ambiguous=False), picture


def _post(
    identity: str, caption: str, name: str, type_: str, scene: str | None, box: Box | None, *, ambiguous: bool
) -> PracticePost:
    start = caption.index("{}")
    return PracticePost(
        id=identity,
        text=caption.format(name),
        scene=scene,
        box=box,
        name=(start, start + len(name), type_),
        ambiguous=ambiguous,
    )


def _conll(post: PracticePost) -> str:
    tokens = tokenize(post.text)
    lines = [f"IMGID:{post.id}"]
    for token in tokens:
        tag = "O"
        if post.name is not None:
            start, end, type_ = post.name
            if start <= token.start and token.end <= end:
                tag = f"{'B' if token.start == start else 'I'}-{type_}"
        lines.append(f"{token.text}\t{tag}")
    return "\n".join(lines) + "\n\n"


def token_span(post: PracticePost) -> Span | None:
    """The post's name in tokens, None where it has none."""
    if post.name is None:
        return None
    start, end, type_ = post.name
    inside = [n for n, token in enumerate(tokenize(post.text)) if start <= token.start and token.end <= end]
    return Span(type_, inside[0], inside[-1] + 1)


def draw(scene: str, chance: random.Random) -> tuple[Image.Image, Box]:
    """A picture of `scene` on a random ground, and the box of the object that tells what it is."""
    ground = tuple(chance.randint(60, 200) for _ in range(3))
    image = Image.new("RGB", (SIDE, SIDE), ground)
    canvas = ImageDraw.Draw(image)
    for _ in range(12):
        x, y, size = chance.randint(-20, SIDE), chance.randint(-20, SIDE), chance.randint(10, 60)
        shade = tuple(max(0, min(255, part + chance.randint(-25, 25))) for part in ground)
        canvas.ellipse((x, y, x + size, y + size), fill=shade)
    size = chance.randint(110, 150)
    left, top = chance.randint(0, SIDE - size), chance.randint(0, SIDE - size)
    box = (left, top, left + size, top + size)
    _PAINTERS[scene](canvas, box, chance)
    return image.filter(ImageFilter.GaussianBlur(0.6)), box


def _portrait(canvas: ImageDraw.ImageDraw, box: Box, chance: random.Random) -> None:
    left, top, right, bottom = box
    size = right - left
    skin = chance.choice(((244, 208, 177), (201, 150, 110), (141, 85, 50), (92, 58, 38)))
    hair = chance.choice(((30, 20, 15), (110, 70, 30), (190, 150, 70), (120, 120, 120)))
    canvas.ellipse((left + size * 0.05, bottom - size * 0.3, right - size * 0.05, bottom + size * 0.5),
                   fill=tuple(chance.randint(20, 230) for _ in range(3)))  # fmt: skip
    canvas.ellipse((left + size * 0.18, top, right - size * 0.18, bottom - size * 0.2), fill=hair)
    canvas.ellipse((left + size * 0.24, top + size * 0.12, right - size * 0.24, bottom - size * 0.15), fill=skin)
    for side in (0.38, 0.62):
        x, y = left + size * side, top + size * 0.42
        canvas.ellipse((x - 7, y - 4, x + 7, y + 4), fill="white")
        canvas.ellipse((x - 3, y - 3, x + 3, y + 3), fill="black")
    canvas.arc((left + size * 0.37, top + size * 0.5, right - size * 0.37, top + size * 0.72), 20, 160,
               fill=(170, 40, 50), width=4)  # fmt: skip


def _skyline(canvas: ImageDraw.ImageDraw, box: Box, chance: random.Random) -> None:
    left, top, right, bottom = box
    x = left
    while x < right - 10:
        width = min(chance.randint(14, 30), right - x)
        roof = chance.randint(top, bottom - (bottom - top) // 3)
        grey = chance.randint(30, 90)
        canvas.rectangle((x, roof, x + width, bottom), fill=(grey, grey, grey + 15))
        for window in range(roof + 5, bottom - 5, 9):
            for pane in range(x + 3, x + width - 4, 7):
                if chance.random() < 0.7:
                    canvas.rectangle((pane, window, pane + 3, window + 4), fill=(250, 225, 130))
        x += width + 2


def _pitch(canvas: ImageDraw.ImageDraw, box: Box, chance: random.Random) -> None:
    left, top, right, bottom = box
    size = right - left
    for stripe in range(6):
        shade = (40, 140, 50) if stripe % 2 else (50, 165, 60)
        canvas.rectangle((left + stripe * size / 6, top, left + (stripe + 1) * size / 6, bottom), fill=shade)
    canvas.rectangle((left + 4, top + 4, right - 4, bottom - 4), outline="white", width=3)
    canvas.line(((left + right) / 2, top + 4, (left + right) / 2, bottom - 4), fill="white", width=3)
    canvas.ellipse((left + size * 0.35, top + size * 0.35, right - size * 0.35, bottom - size * 0.35),
                   outline="white", width=3)  # fmt: skip
    for side in (left + 4, right - 4 - size * 0.14):
        canvas.rectangle((side, top + size * 0.3, side + size * 0.14, bottom - size * 0.3), outline="white", width=3)
    x, y = left + size * chance.uniform(0.2, 0.8), top + size * chance.uniform(0.2, 0.8)
    canvas.ellipse((x - 6, y - 6, x + 6, y + 6), fill="white", outline="black")


def _stage(canvas: ImageDraw.ImageDraw, box: Box, chance: random.Random) -> None:
    left, top, right, bottom = box
    size = right - left
    canvas.rectangle(box, fill=(25, 10, 35))
    for beam in range(4):
        x = left + size * (beam + 0.5) / 4
        colour = chance.choice(((255, 60, 160), (80, 160, 255), (255, 220, 60), (150, 80, 255)))
        spread = size * 0.14
        canvas.polygon(((x, top), (x - spread, bottom - size * 0.2), (x + spread, bottom - size * 0.2)), fill=colour)
    canvas.rectangle((left, bottom - size * 0.22, right, bottom), fill=(60, 35, 20))
    for player in (0.25, 0.5, 0.75):
        x, foot = left + size * player, bottom - size * 0.18
        canvas.ellipse((x - 7, foot - 48, x + 7, foot - 34), fill="black")
        canvas.line((x, foot - 34, x, foot - 14), fill="black", width=9)
        canvas.line((x, foot - 14, x - 7, foot), fill="black", width=5)
        canvas.line((x, foot - 14, x + 7, foot), fill="black", width=5)
        tilt = math.radians(chance.uniform(10, 40))
        canvas.line((x - 14, foot - 18, x + 16 * math.cos(tilt), foot - 20 - 16 * math.sin(tilt)),
                    fill=(200, 120, 30), width=5)  # fmt: skip


_PAINTERS: dict[str, Callable[[ImageDraw.ImageDraw, Box, random.Random], None]] = {
    "portrait": _portrait,
    "skyline": _skyline,
    "pitch": _pitch,
    "stage": _stage,
}
