"""The inspection page in a real browser: headless Chromium, driven by Playwright."""

import dataclasses
import shutil
import threading
import time

import httpx
import numpy as np
import pytest

from changenet.errors import CheckpointError
from changenet.evaluation.metrics import score_histogram
from ray_jobs.listening import free_port
from serve.forwarding import Absence
from serve.keys import KeyRing, add_key
from serve.model_state import StateFiles
from serve.problems import HttpError

CHROMIUM = shutil.which("chromium")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium")


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=180_000)
        yield browser
        browser.close()


@pytest.fixture
def served():
    """Serves an app for the time of a test."""
    import uvicorn

    running = []

    def start(app):
        port = free_port()
        server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        running.append((server, thread))
        while not server.started:
            time.sleep(0.01)
        return f"http://127.0.0.1:{port}"

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(30)


@pytest.fixture
def page(browser):
    """A page that fails the test when its script fails, or wants what its policy forbids."""
    context = browser.new_context(viewport={"width": 1160, "height": 900})
    context.set_default_timeout(60_000)
    page = context.new_page()
    complaints = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if "Content Security" in message.text else None)
    yield page
    assert complaints == []
    context.close()


@pytest.fixture
def opened(page, served, models, app_of):
    page.goto(served(app_of(*models.values())))
    page.wait_for_selector("#facts dt")
    return page


def file(content, name="part.png"):
    return {"name": name, "mimeType": "image/png", "buffer": content}


def put(page, role, content, **named):
    page.set_input_files(f"#{role} input", file(content, **named))


def verdict(page):
    page.wait_for_selector("#result:is([data-state=pass], [data-state=fail], [data-state=problem])")
    return page.inner_text("#verdict")


def test_two_pictures_give_a_verdict_and_its_circumstances(opened, picture):
    put(opened, "test", picture(255))
    assert opened.is_disabled("#inspect")
    put(opened, "golden", picture(0))
    assert verdict(opened) == "FAIL"
    assert "above the threshold 0.5" in opened.inner_text("#sentence")
    facts = opened.inner_text("#facts")
    assert all(words in facts for words in ("Answered in", "encoded now", "0123456789ab", "fake"))
    assert "this pair 1" in opened.text_content("#chart") and "9 good parts" in opened.inner_text("#caption")
    put(opened, "test", picture(10))
    assert verdict(opened) == "PASS"


def test_a_broken_picture_is_told_and_is_no_verdict(opened, picture):
    put(opened, "test", picture(255))
    put(opened, "golden", b"\x89PNG broken")
    assert verdict(opened) == "No verdict"
    assert "golden" in opened.inner_text("#problem")
    assert opened.get_attribute("#result", "data-state") == "problem"


def test_a_golden_is_named_instead_of_sent(opened, picture):
    put(opened, "test", picture(255))
    opened.fill("#golden-id", "R12")
    opened.press("#golden-id", "Enter")
    assert verdict(opened) == "No verdict" and "R12" in opened.inner_text("#problem")
    opened.fill("#golden-id", "not an id")
    assert opened.is_disabled("#inspect")


def test_a_registered_golden_stands_for_its_picture(opened, picture):
    answer = httpx.put(f"{opened.url}v1/models/pcb/goldens/R12", files={"golden": picture(0)}, timeout=60)
    assert answer.status_code in (200, 201), answer.text
    put(opened, "test", picture(255))
    opened.fill("#golden-id", "R12")
    opened.press("#golden-id", "Enter")
    assert verdict(opened) == "FAIL"
    opened.wait_for_selector("#stage canvas:nth-of-type(2)")
    opened.check("input[value=flip]", force=True)
    opened.keyboard.press("f")
    assert pixel(opened) == [0, 0, 0] and "golden" in opened.inner_text("#view-caption")
    opened.fill("#golden-id", "R1")
    opened.wait_for_selector("#view-caption:has-text('Only the test')")


def test_each_of_several_goldens_is_looked_at(opened, picture):
    opened.select_option("#model", "goldens")
    opened.wait_for_selector("#golden input[multiple]")
    put(opened, "test", picture(200))
    opened.set_input_files("#golden input", [file(picture(level), name=f"{level}.png") for level in (40, 80)])
    assert verdict(opened) in ("PASS", "FAIL")
    opened.check("input[value=flip]", force=True)
    opened.keyboard.press("f")
    assert pixel(opened) == [40, 40, 40]
    opened.select_option("#view-golden", "1")
    opened.wait_for_selector("#view-caption:has-text('Now the test')")
    opened.keyboard.press("f")
    assert pixel(opened) == [80, 80, 80]


def test_the_scores_of_a_sharp_network_are_bars_that_can_be_seen(page, served, models, app_of):
    inspector = models["pcb"].inspector
    logits = np.random.default_rng(0).normal(-12, 1.5, 1000)
    scores = 1 / (1 + np.exp(-np.concatenate([logits, -logits[:200]])))
    histogram = score_histogram(scores, np.arange(1200) >= 1000)
    inspector.description = dataclasses.replace(inspector.description, validation_scores=histogram)
    page.goto(served(app_of(models["pcb"])))
    page.wait_for_selector("#chart rect")
    bars = page.evaluate(
        "[...document.querySelectorAll('#chart rect')].map((bar) => [bar.className.baseVal, +bar.getAttribute('width')])"
    )
    assert [kind for kind, _ in bars] == ["pass", "defect"] and min(width for _, width in bars) > 8
    assert "1000 good parts" in page.inner_text("#caption")


def drop(page, role, content):
    """Drop a picture on a slot, as a file manager does."""
    page.evaluate(
        """([role, bytes]) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([new Uint8Array(bytes)], "part.png", { type: "image/png" }));
          const slot = document.querySelector(`#${role} .slot`);
          for (const kind of ["dragover", "drop"])
            slot.dispatchEvent(new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true }));
        }""",
        [role, list(content)],
    )


def test_pictures_are_dropped(opened, picture):
    drop(opened, "golden", picture(0))
    drop(opened, "test", picture(10))
    assert verdict(opened) == "PASS"


def pixel(page):
    """The colour in the middle of the first canvas."""
    return page.evaluate(
        "() => { const c = document.querySelector('#stage canvas');"
        " return [...c.getContext('2d').getImageData(c.width / 2, c.height / 2, 1, 1).data.slice(0, 3)]; }"
    )


def test_a_pair_is_looked_at_in_three_ways(opened, picture):
    put(opened, "test", picture(60))
    put(opened, "golden", picture(40))
    opened.wait_for_selector("#stage canvas:nth-of-type(2)")
    opened.check("input[value=difference]", force=True)
    assert pixel(opened) == [80, 80, 80]  # 20, four times brighter
    opened.keyboard.press("f")
    assert pixel(opened) == [60, 60, 60]
    opened.keyboard.press("f")
    assert pixel(opened) == [40, 40, 40] and "golden" in opened.inner_text("#view-caption")
    opened.click("#stage")
    assert pixel(opened) == [60, 60, 60]


def test_models_are_listed_and_chosen_by_keyboard(opened, picture):
    rows = opened.locator("#models tbody tr")
    assert rows.all_inner_texts() == [
        f"{name}\t0123456789ab\tfake\tlearnable\t0.5000\t" for name in ("pcb", "lights", "goldens")
    ]
    opened.locator("#models button", has_text="lights").focus()
    opened.keyboard.press("Enter")
    opened.wait_for_selector("#test [data-light=White]")
    for role, level in (("test", 255), ("golden", 0)):
        both = [file(picture(level), name=f"a_{light}.png") for light in ("White", "Solder")]
        for each in both:
            light = each["name"].removeprefix("a_").removesuffix(".png")
            opened.set_input_files(f"#{role} [data-light={light}] input", each)
    assert verdict(opened) == "FAIL"
    opened.select_option("#view-light", "White")
    opened.wait_for_selector("#stage canvas:nth-of-type(2)")


def test_a_change_that_failed_is_shown(page, served, models, app_of, tmp_path):
    def load(name, source):
        raise CheckpointError("no such folder", where=source.bundle)

    url = served(app_of(models["pcb"], load=load, files=StateFiles(str(tmp_path / "state"))))
    assert httpx.post(f"{url}/v1/models/pcb/swap", json={"bundle": "/bad"}, timeout=60).status_code >= 400
    page.goto(url)
    page.wait_for_selector("#models tbody tr")
    assert "the last change failed: /bad: no such folder" in page.inner_text("#models")


class Away:
    name = "away"

    async def ask(self, _request, *, seconds):  # noqa: ARG002 - as the service calls it
        raise HttpError(503, "model-away", "The model 'away' is not there at the moment.")

    async def absence(self):
        return Absence("no such folder")


def test_a_model_that_is_away_is_told_and_takes_no_pictures_for_another(page, served, models, app_of, picture):
    page.goto(served(app_of(models["pcb"], remotes={"away": Away()})))
    page.wait_for_selector("#facts dt")
    assert "away: no such folder" in page.inner_text("#models")
    put(page, "test", picture(80))
    page.select_option("#model", "away")
    page.wait_for_selector("text=is not there at the moment")
    assert page.locator("#inspect").is_disabled() and page.locator("form .slot").count() == 0
    assert not page.is_visible("#view")
    page.select_option("#model", "pcb")
    page.wait_for_selector("form .slot")
    put(page, "test", picture(80))
    put(page, "golden", picture(0))
    assert verdict(page) == "PASS"


def test_of_two_choices_of_a_model_the_last_one_counts(opened, picture):
    held = []
    opened.route("**/v1/models/lights", lambda route: held.append(route))
    opened.select_option("#model", "lights")
    opened.select_option("#model", "goldens")
    opened.wait_for_selector("#golden input[multiple]")
    for route in held:
        route.continue_()
    put(opened, "test", picture(255))
    put(opened, "golden", picture(0))
    assert verdict(opened) == "FAIL"
    assert opened.locator("#models tr.selected").inner_text().startswith("goldens")
    assert opened.locator("#test [data-light=White]").count() == 0


def test_everything_fits_a_phone(opened, picture):
    opened.set_viewport_size({"width": 360, "height": 740})
    put(opened, "test", picture(255))
    put(opened, "golden", picture(0))
    assert verdict(opened) == "FAIL"
    assert opened.evaluate("document.documentElement.scrollWidth") <= 360
    heights = opened.evaluate(
        "[...document.querySelectorAll('main > * button:not(.link), select, #golden-id')]"
        ".filter((e) => e.offsetParent).map((e) => e.offsetHeight)"
    )
    assert min(heights) >= 40, "too small for a thumb"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(opened, picture, scheme):
    opened.emulate_media(color_scheme=scheme)
    put(opened, "test", picture(255))
    put(opened, "golden", picture(0))
    assert verdict(opened) == "FAIL"
    contrasts = opened.evaluate("""() => {
      const channel = (v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
      const light = (rgb) => 0.2126 * channel(rgb[0]) + 0.7152 * channel(rgb[1]) + 0.0722 * channel(rgb[2]);
      const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
      const ground = (e) => { for (; e; e = e.parentElement) {
        const c = numbers(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > 0) return c; } };
      return [...document.querySelectorAll('h1, h2, p, dt, dd, legend, button, td, th, .modes span, figcaption')]
        .filter((e) => e.offsetParent && e.textContent.trim() && !e.disabled)
        .map((e) => { const [a, b] = [light(numbers(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x);
          return [(a + 0.05) / (b + 0.05), e.textContent.slice(0, 30)]; });
    }""")
    assert len(contrasts) > 20
    assert min(contrasts)[0] >= 4.5, min(contrasts)


def test_the_key_is_asked_for_and_kept_nowhere(page, served, models, picture, tmp_path, app_of):
    keys = str(tmp_path / "keys.txt")
    key = add_key(keys, "operator")
    url = served(app_of(*models.values(), keys=KeyRing(keys)))
    page.goto(url)
    page.wait_for_selector("#key")
    assert page.locator("#model option").count() == 0
    page.fill("#key", "wrong")
    page.press("#key", "Enter")
    page.wait_for_selector("#key-problem:not([hidden])")
    assert "not known" in page.inner_text("#key-problem")
    page.fill("#key", key)
    page.press("#key", "Enter")
    page.wait_for_selector("#unlock", state="hidden")
    put(page, "test", picture(255))
    put(page, "golden", picture(0))
    assert verdict(page) == "FAIL"
    assert (
        page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie, location.href])").find(key) == -1
    )
    assert key not in page.content()
    page.reload()
    page.wait_for_selector("#key")
