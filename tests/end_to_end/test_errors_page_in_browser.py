"""`nametag errors` on real posts, and its page in a real browser."""

import html
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from model.practice import write_practice_set
from worker.settings import STARTER_CHECKPOINT

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
HOSTILE = 'IMGID:valid_00001\n<script>document.title="owned"</script>\tB-PER\n"><img/src=x/onerror=alert(1)>\tO\n'
# Asked of a copy of the page, whose policy lets this one script run and keeps all the rest.
QUESTION = """<script>addEventListener("load", () => {
  document.documentElement.dataset.answer = JSON.stringify({
    images: [...document.images].length,
    loaded: [...document.images].filter(image => image.naturalWidth > 0).length,
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  });
});</script></head>"""


@pytest.fixture(scope="module")
def browser() -> str:
    """A Chromium; where there is none the test is skipped, in CI it fails."""
    for name in BROWSERS:
        if found := shutil.which(name):
            return found
    line = f"no browser here: install one of {', '.join(BROWSERS)}"
    if os.environ.get("CI") == "true":
        pytest.fail(line, pytrace=False)
    pytest.skip(line)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the shipped checkpoint's errors on practice posts under one another's pictures."""
    folder = tmp_path_factory.mktemp("errors")
    write_practice_set(folder, num_train=1, num_valid=30)
    posts = (folder / "valid.txt").read_text(encoding="utf-8").strip().split("\n\n")
    ids, bodies = zip(*(post.split("\n", 1) for post in posts), strict=True)
    shuffled = [f"{name}\n{body}" for name, body in zip(ids[7:] + ids[:7], bodies, strict=True)]
    data = folder / "shuffled.txt"
    data.write_text("\n\n".join([*shuffled, HOSTILE]), encoding="utf-8")
    command = ("errors", STARTER_CHECKPOINT, data, "--images", folder / "images", "--out", folder / "out")
    done = subprocess.run([sys.executable, "-m", "worker.cli", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "posts have errors" in done.stdout
    return folder / "out" / "index.html"


def dom(browser: str, page: Path, profile: Path) -> str:
    """The document as the browser has it once the page is loaded, in a window 400 pixels wide."""
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--window-size=400,800")
    command = [browser, *flags, f"--user-data-dir={profile}", "--dump-dom", page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def test_the_browser_sees_the_errors_and_no_script(browser: str, page: Path, tmp_path: Path) -> None:
    """Every error is an article, the hostile caption is words, and nothing of it ran."""
    seen = dom(browser, page, tmp_path)
    assert seen.count("<article") == page.read_text(encoding="utf-8").count("<article") >= 2
    assert "<script" not in seen
    assert "<title>Errors of nametag-starter.safetensors on shuffled.txt</title>" in seen
    assert "&lt;script&gt;document.title=" in seen


def test_pictures_load_and_nothing_overflows(browser: str, page: Path, tmp_path: Path) -> None:
    """The page's own policy lets its pictures in, and a narrow window needs no scrolling sideways."""
    asked = page.with_name("asked.html")
    text = page.read_text(encoding="utf-8").replace(' loading="lazy"', "")
    text = text.replace("default-src 'none';", "default-src 'none'; script-src 'unsafe-inline';", 1)
    asked.write_text(text.replace("</head>", QUESTION, 1), encoding="utf-8")
    found = re.search(r'data-answer="([^"]*)"', dom(browser, asked, tmp_path))
    assert found is not None, "the page didn't finish loading"
    answer = json.loads(html.unescape(found[1]))
    assert answer["images"] == answer["loaded"] >= 2
    assert answer["overflow"] <= 0
