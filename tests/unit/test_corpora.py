"""The corpora's readers: their own types become ours, and nothing is lost."""

import json
from collections import Counter
from pathlib import Path

import pytest

from model.corpora import Corpus, read_btc, read_tweebank, read_wnut17
from model.errors import DataError

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "ner"


def test_wnut17(tmp_path: Path) -> None:
    """WNUT-17's six types become four."""
    kinds = ("person", "location", "corporation", "group", "product", "creative-work")
    path = tmp_path / "wnut"
    path.write_text("".join(f"x\tB-{kind}\ny\tI-{kind}\n" for kind in kinds), encoding="utf-8")
    tags = read_wnut17(path).sentences[0].tags
    assert tags[::2] == ("B-PER", "B-LOC", "B-ORG", "B-ORG", "B-MISC", "B-MISC")
    assert tags[1::2] == ("I-PER", "I-LOC", "I-ORG", "I-ORG", "I-MISC", "I-MISC")


def test_btc(tmp_path: Path) -> None:
    """A quotation mark that a CSV writer wrapped in quotes is one again."""
    path = tmp_path / "btc"
    path.write_text("'\"'\tO\nRome\tB-LOC\n'\"'\tO\n", encoding="utf-8")
    assert read_btc(path).sentences[0].tokens == ('"', "Rome", '"')


def test_tweebank(tmp_path: Path) -> None:
    """Tweebank-NER's JSON is read with its labels repaired and counted."""
    path = tmp_path / "tweebank.json"
    posts = [[{"text": "New", "ner": "I-LOC"}, {"text": "York", "ner": "I-LOC"}], [{"text": "hi", "ner": "O"}]]
    path.write_text(json.dumps(posts), encoding="utf-8")
    data = read_tweebank(path)
    assert [sentence.tags for sentence in data.sentences] == [("B-LOC", "I-LOC"), ("O",)]
    assert (data.num_repairs, data.name) == (1, "tweebank.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "is no JSON"),
        ("{}", "holds no labelled post"),
        ('[[{"text": "a", "ner": "O"}], [{"text": "a"}]]', "post 2: needs words with text and an IOB2 ner"),
        ('[[{"text": "a", "ner": "PER"}]]', "post 1: needs words"),
        ('[[{"text": null, "ner": "O"}]]', "post 1: needs words with text .*None is no text"),
        ('[[{"text": "a", "ner": "O"}, {"text": "", "ner": "O"}]]', "tweebank.json, post 1, word 2: is empty"),
        ('[[], [{"text": "\\ud83d", "ner": "O"}]]', r"post 2, word 1: '\\ud83d' holds half a character"),
        ("[" * 100_000, "tweebank.json: is nested too deeply"),
        ('[[{"text": "a", "ner": ' + "[" * 900 + "]" * 900 + "}]]", "post 1: needs words"),
        ('[{"text": "a", "ner": "O"}]', "post 1: needs words"),
        ("[3]", "post 1: needs words"),
    ],
)
def test_bad_tweebank(tmp_path: Path, content: str, message: str) -> None:
    """A file that isn't Tweebank-NER's is refused with the place."""
    path = tmp_path / "tweebank.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_tweebank(path)


@pytest.mark.parametrize(
    ("format", "name", "num_posts", "num_names"),
    [
        ("wnut17", "wnut17/wnut17train.conll", 3394, {"PER": 660, "LOC": 548, "ORG": 485, "MISC": 282}),
        ("wnut17", "wnut17/emerging.dev.conll", 1009, {"PER": 470, "LOC": 74, "ORG": 73, "MISC": 219}),
        ("btc", "btc/btc.train", 6338, {"PER": 4084, "LOC": 2030, "ORG": 2665}),
        ("btc", "btc/btc.dev", 1000, {"PER": 1194, "LOC": 156, "ORG": 380}),
        ("tweebank", "tweebank_ner/en_tweet.train.json", 1600, {"PER": 356, "LOC": 133, "ORG": 239, "MISC": 234}),
        ("tweebank", "tweebank_ner/en_tweet.dev.json", 700, {"PER": 143, "LOC": 69, "ORG": 110, "MISC": 95}),
    ],
)
def test_the_corpora(format: str, name: str, num_posts: int, num_names: dict[str, int]) -> None:
    """Each corpus is read whole, with as many names of each type as it has."""
    if not SHARED.exists():
        pytest.skip("the corpora are in shared/data/ner, which isn't here")
    data = Corpus(path=str(SHARED / name), format=format).read()
    assert len(data.sentences) == num_posts
    assert Counter(tag[2:] for s in data.sentences for tag in s.tags if tag[0] == "B") == num_names
