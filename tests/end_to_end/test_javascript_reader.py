"""Events in JavaScript's hands: `text.slice(start_utf16, end_utf16)` is the entity, whatever the text holds."""

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from consumers.events import CheckpointName, EntityEvent, ImageReport, Scissors
from consumers.image_status import ImageStatus
from consumers.wire import PositionReport
from tests.end_to_end.worker_process import NAMETAG, clean_environment
from tests.node import run_node

SCRIPT = Path(__file__).with_name("read_events.mjs")

FILES = {"input": "posts", "output": "events", "dead-letters": "letters"}

Json = dict[str, Any]

# Text and mention; something beyond 16 bits is before each mention or in it, so that the two units differ.
CASES = {
    "emoji": ("😀 so happy about Paris 😀", "Paris"),
    "flag": ("🇫🇷🇩🇪 Paris to Berlin", "Berlin"),
    "flag in the name": ("at the 🇺🇸 Embassy today", "🇺🇸 Embassy"),
    "family": ("👨‍👩‍👧‍👦 met Anna", "Anna"),
    "family in the name": ("see The 👨‍👩‍👧‍👦 Show now", "The 👨‍👩‍👧‍👦 Show"),
    "combining marks": ("😀 at Cafe\u0301 Noe\u0308l 😀", "Cafe\u0301 Noe\u0308l"),
    "skin tones": ("👍🏽👩🏿‍🚀 Mae Jemison", "Mae Jemison"),
    "lone high surrogate": ("\ud83d in 😀 Paris", "Paris"),
    "lone low surrogate": ("\ude00 😀 in Paris \ud83d", "Paris"),
    "lone surrogate in the name": ("😀 Par\ud83dis!", "Par\ud83dis"),
    "ampersand": ("😀 works at AT&amp;T &lt;3", "AT&amp;T"),
    "astral letters": ("in 𝓑𝓮𝓻𝓵𝓲𝓷 with 𠮷野家", "𝓑𝓮𝓻𝓵𝓲𝓷"),
    "astral ideograph": ("𝓑𝓮𝓻𝓵𝓲𝓷: 𠮷野家", "𠮷野家"),
    "variation selectors": ("❤️🧑‍❤️‍🧑 ☎️ Moët", "Moët"),
    "right to left": ("😀 \u202bירושלים\u202c!", "ירושלים"),
    "line ends": ("😀\r\n\u2028Paris\r\n", "Paris"),
    "at the end": ("😀😀😀Rio", "Rio"),
}
POSTS = [
    "😀😀 so happy about Paris and London !",
    "🇫🇷🇩🇪 Angela Merkel met Barack Obama in Berlin 🇩🇪",
    "👨‍👩‍👧‍👦 with Taylor Swift in New York 👍🏽",
    "\ud83d then 😀 Barack Obama went to Cafe\u0301 Paris",
    "𝓗𝓮𝓵𝓵𝓸 Justin Bieber is in London",
    "no name here",
]


def event_of(text: str, mention: str) -> bytes:
    start = text.index(mention)
    entity = Scissors(text).cut(type="MISC", start=start, end=start + len(mention), confidence=0.5)
    assert entity.text == mention
    return EntityEvent(
        id=mention,
        tagged_at=datetime.now(UTC),
        text=text,
        entities=(entity,),
        image=ImageReport(status=ImageStatus.NONE),
        checkpoint=CheckpointName(id="c", variant="text"),
        position=PositionReport(topic="posts", partition=0, offset=0),
    ).to_json()


def read(*lines: bytes) -> Json:
    done = run_node(SCRIPT, stdin=b"\n".join(lines) + b"\n")
    assert not done.stderr, done.stderr.decode()
    told: Json = json.loads(done.stdout)
    assert done.returncode == bool(told["wrong"])
    return told


def with_code_points(line: bytes) -> bytes:
    """The event of a writer who takes one unit for the other."""
    event = json.loads(line)
    for entity in event["entities"]:
        entity |= {"start_utf16": entity["start"], "end_utf16": entity["end"]}
    return json.dumps(event).encode()


def test_javascript_cuts_the_same_words() -> None:
    """Each case, by UTF-16 offsets."""
    told = read(*(event_of(*case) for case in CASES.values()))
    assert told == {"events": len(CASES), "entities": len(CASES), "raw": 0, "wrong": []}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_code_points_cut_other_words(case: tuple[str, str]) -> None:
    """The reader would notice: by code points each case comes out wrong."""
    assert len(read(with_code_points(event_of(*case)))["wrong"]) == 1


@pytest.mark.parametrize(("shift", "num_wrong"), [(0, 0), (1, 1)])
def test_raw_offsets_are_those_of_the_raw_text(shift: int, num_wrong: int) -> None:
    """Where an event has the text as delivered, too, its own offsets cut the same words there."""
    event = json.loads(event_of("😀 works at AT&T <3", "AT&T"))
    event["raw_text"] = "😀 works at AT&amp;T &lt;3"
    (entity,) = event["entities"]
    entity["raw"] = {"start_utf16": 12 + shift, "end_utf16": 20 + shift}
    told = read(json.dumps(event).encode())
    assert (told["raw"], len(told["wrong"])) == (1, num_wrong)


def test_javascript_reads_what_the_worker_writes(tmp_path: Path) -> None:
    """Posts and tweets through the worker with the shipped checkpoint: every entity is cut exactly."""
    posts = [{"id": f"{n}", "text": text} for n, text in enumerate(POSTS)]
    tweets = [{"id_str": f"t{n}", "text": f"R&amp;D &lt;3 {text} AT&amp;T"} for n, text in enumerate(POSTS)]
    (tmp_path / "posts.jsonl").write_text("\n".join(map(json.dumps, [*posts, *tweets])) + "\n", encoding="utf-8")
    files = [f"--{kind}={tmp_path / name}.jsonl" for kind, name in FILES.items()]
    subprocess.run([*NAMETAG, "worker", *files], env=clean_environment(), check=True, capture_output=True, timeout=120)
    assert not (tmp_path / "letters.jsonl").read_bytes()
    lines = (tmp_path / "events.jsonl").read_bytes().splitlines()
    events = [json.loads(line) for line in lines]
    num_entities = sum(len(event["entities"]) for event in events)
    num_raw = sum(len(event["entities"]) for event in events if "raw_text" in event)
    told = read(*lines)
    assert told == {"events": 2 * len(POSTS), "entities": num_entities, "raw": num_raw, "wrong": []}
    assert num_entities >= len(POSTS)
    assert num_raw > 0, "no tweet's text was shown in another form"
    assert read(*map(with_code_points, lines))["wrong"], "no entity stood behind an emoji"
