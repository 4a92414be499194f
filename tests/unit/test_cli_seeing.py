"""`nametag tag` and `nametag errors`: the same entities as in events, and errors in one sentence."""

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from PIL import Image

from model.checkpoint import Checkpoint, save
from model.labels import DEFAULT_LABELS
from model.tagger import NameTagger, TaggerConfig
from model.tokenizer import Scheme
from model.vocabulary import Vocabulary
from worker.cli import main
from worker.demo import EXAMPLES
from worker.service import Files, run_worker
from worker.settings import Settings

PICTURE = EXAMPLES / "images" / "modern_baseball_pitch.jpg"
TEXT = "😍😍 so happy about Modern Baseball !"


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files, and writes no log."""

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""


@pytest.fixture
def origin() -> Iterator[str]:
    """The origin of a loopback server with the example pictures."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(PICTURE.parent))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def text_checkpoint(tmp_path: Path) -> Path:
    """A checkpoint of random weights that looks at no picture."""
    vocabulary = Vocabulary.of([["Paris", "again"]])
    config = TaggerConfig(variant="blstm_crf", word_size=4, char_embedding=4, char_hidden=2, hidden=4)
    # A seed whose weights get something wrong: some find every name of a short text.
    torch.manual_seed(1)
    network = NameTagger(config, DEFAULT_LABELS, vocabulary.num_words, vocabulary.num_characters)
    checkpoint = Checkpoint(
        config=config,
        labels=DEFAULT_LABELS,
        vocabulary=vocabulary,
        scheme=Scheme.OWOPUTI,
        tower="efficientnet_lite0",
        tower_digest="",
        state=network.state_dict(),
    )
    path = tmp_path / "text.safetensors"
    save(checkpoint, path)
    return path


def test_json_has_the_entities_of_the_event(
    origin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """A caption and its picture get the same spans and offsets from `tag --json` as from the worker."""
    monkeypatch.setenv("NAMETAG_IMAGES__ALLOW_ORIGINS", json.dumps([origin]))
    url = f"{origin}/{PICTURE.name}"
    posts = tmp_path / "posts.jsonl"
    posts.write_text(json.dumps({"id": "1", "text": TEXT, "image_url": url}) + "\n", encoding="utf-8")
    events = tmp_path / "events.jsonl"
    files = Files(posts=str(posts), events=str(events), dead_letters=str(tmp_path / "dead.jsonl"))
    asyncio.run(run_worker(Settings(include_attention=True), files))
    event = json.loads(events.read_text(encoding="utf-8"))
    for image in (url, str(PICTURE)):
        assert main(["tag", "--text", TEXT, "--image", image, "--json"]) == 0
        told = json.loads(capfdbinary.readouterr().out)
        assert len(told["entities"]) == len(event["entities"]) == 1
        for one, other in zip(told["entities"], event["entities"], strict=True):
            assert one.pop("confidence") == pytest.approx(other["confidence"], abs=1e-4)
            assert one == {name: value for name, value in other.items() if name != "confidence"}
        assert told["checkpoint"] == event["checkpoint"]
        assert told["image"]["digest"] == event["image"]["digest"]
        assert sum(map(sum, told["image"]["attention"])) == pytest.approx(1, abs=1e-3)


def test_a_person_sees_the_caption_and_gets_the_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Plain text where it is piped, colours where they are wanted, and a figure of the usual width."""
    figure = tmp_path / "new" / "figure.png"
    arguments = ["tag", "--text", TEXT, "--image", str(PICTURE), "--heatmap", str(figure)]
    assert main(arguments) == 0
    plain = capsys.readouterr().out
    assert plain.startswith("😍😍 so happy about Modern Baseball ORG ")
    assert plain.endswith("[image: used]\n")
    with Image.open(figure) as drawn:
        assert drawn.width == 760
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert main(arguments) == 0
    assert "\x1b[" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        ("no/such/file.jpg", "can't be used (not_found: no such file or directory); name another with --image"),
        (str(EXAMPLES / "posts.jsonl"), "can't be used (bad_image: "),
        (str(EXAMPLES / "images" / "cut_short.jpg"), "can't be used (bad_image: the JPEG ends"),
        (str(EXAMPLES), "can't be used (not_found: is a directory)"),
        ("http://169.254.169.254/latest", "blocked_address: 169.254.169.254 is no public address); set NAMETAG_IMAGES"),
        ("http://127.0.0.1:9/a.jpg", "blocked_address: port 9 is not fetched from); set NAMETAG_IMAGES"),
    ],
)
def test_a_picture_that_cannot_be_had_is_one_sentence(
    image: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is wrong with the picture, and what to do; no traceback, and no URL."""
    assert main(["tag", "--text", TEXT, "--image", image]) == 1
    told = capsys.readouterr().err
    assert sentence in told
    assert told.count("\n") == 1
    assert "http://" not in told


def test_a_heatmap_needs_attention(text_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A checkpoint that looks at no picture tags all the same, but refuses a heatmap in a sentence."""
    arguments = ["tag", "--text", TEXT, "--image", str(PICTURE), "--checkpoint", str(text_checkpoint)]
    assert main(arguments) == 0
    assert "[image: none]" in capsys.readouterr().out
    assert main([*arguments, "--heatmap", "never.png"]) == 1
    assert "text.safetensors is of the variant blstm_crf, which attends to no picture" in capsys.readouterr().err


def test_a_heatmap_needs_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty caption has no attention to draw, which is said."""
    figure = tmp_path / "figure.png"
    assert main(["tag", "--text", " ", "--image", str(PICTURE), "--heatmap", str(figure)]) == 1
    assert "the caption holds no word" in capsys.readouterr().err
    assert not figure.exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--heatmap", "a.png"], "name one with --image"),
        (["--image", "a.jpg", "--heatmap", "a.txt"], "--heatmap must end in one of .png"),
    ],
)
def test_a_wrong_call_is_refused_at_once(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Arguments that don't fit together end with status 2, before anything is loaded."""
    with pytest.raises(SystemExit) as caught:
        main(["tag", "--text", TEXT, *arguments])
    assert caught.value.code == 2
    assert sentence in capsys.readouterr().err


def test_errors_of_a_text_checkpoint_are_all_text(
    text_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A variant without pictures blames no picture; the counts are told, and where the page is."""
    data = tmp_path / "data.txt"
    # The same words twice: whatever an untrained network makes of them, one of the two is wrong.
    data.write_text("IMGID:1\nParis\tB-LOC\nagain\tB-LOC\n\nIMGID:2\nParis\tO\nagain\tO\n", encoding="utf-8")
    out = tmp_path / "out"
    assert main(["errors", str(text_checkpoint), str(data), "--out", str(out)]) == 0
    told = capsys.readouterr().out
    expected = r"([12]) of 2 posts have errors: 0 image unrelated, 0 image poor, 0 attention astray, \1 text"
    assert re.search(expected, told)
    assert str(out / "index.html") in told


def test_errors_reads_every_corpus_of_the_trainer(
    text_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--format` maps another corpus's labels to the model's, as for `nametag evaluate`."""
    data = tmp_path / "data.txt"
    data.write_text("Paris\tB-person\nagain\tB-person\nand\tB-person\nagain\tB-person\n", encoding="utf-8")
    out = tmp_path / "out"
    assert main(["errors", str(text_checkpoint), str(data), "--format", "wnut17", "--out", str(out)]) == 0
    assert "1 of 1 posts have errors" in capsys.readouterr().out
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "PER" in page
    assert "person" not in page


@pytest.mark.parametrize("limit", ["0", "-1", "many"])
def test_a_limit_is_a_number_above_zero(limit: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Anything else is refused with the option's name."""
    with pytest.raises(SystemExit):
        main(["errors", "a", "b", "--out", "c", "--limit", limit])
    assert "--limit" in capsys.readouterr().err
