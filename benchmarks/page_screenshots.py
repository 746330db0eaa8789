"""Take the pictures of the inspection page in docs/serving.md, with what `changenet quickstart` leaves.

    .venv/bin/python benchmarks/page_screenshots.py QUICKSTART [docs/images]

Serves the bundle in this process, without Ray, and drives Debian's chromium through Playwright: a defect at desk width,
the same pair's difference, and a phone.
"""

from __future__ import annotations

import csv
import shutil
import sys
import threading
import time
from pathlib import Path

import uvicorn
from playwright.sync_api import Page, sync_playwright

from ray_jobs.listening import free_port
from serve.ingress import create_app
from serve.loading import open_models
from serve.metrics import Metrics
from serve.settings import ModelSettings, ServiceSettings

DEFECT = "missing"
DESK, PHONE = {"width": 1160, "height": 900}, {"width": 390, "height": 844}
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]


def main() -> None:
    """Serve, look, and write the PNG files."""
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    home = Path(sys.argv[1])
    target = Path(sys.argv[2] if len(sys.argv) > 2 else "docs/images")
    bundle = ModelSettings(name="boards", bundle=str(home / "results" / "export" / "bundle"))
    settings = ServiceSettings(models=(bundle,))
    port = free_port()
    app = create_app(open_models(settings, Metrics()), settings.limits)
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        page = browser.new_page(viewport=DESK, color_scheme="light")
        inspect(page, f"http://127.0.0.1:{port}", pair(home))
        page.screenshot(path=target / "inspection-page.png", full_page=True)
        page.check("input[value=difference]", force=True)
        page.locator("#view").screenshot(path=target / "inspection-difference.png")
        page.set_viewport_size(PHONE)
        page.evaluate("document.getElementById('result').scrollIntoView()")
        page.screenshot(path=target / "inspection-phone.png")
        browser.close()
    server.should_exit = True
    thread.join()


def pair(home: Path) -> tuple[str, str]:
    """Return the first pair of the test set with the defect."""
    with (home / "data" / "test.csv").open(newline="", encoding="utf-8") as file:
        row = next(row for row in csv.DictReader(file) if row["label"] == DEFECT)
    folder = home / "data" / "images"
    found = [next((folder / row[column]).glob(f"{row['object_name']}.*")) for column in ("input_path", "golden_path")]
    return str(found[0]), str(found[1])


def inspect(page: Page, url: str, files: tuple[str, str]) -> None:
    """Open the page and let it compare the pair; twice, because the first call warms the engine up."""
    page.goto(url)
    page.wait_for_selector("#facts dt")
    for role, file in zip(("test", "golden"), files, strict=True):
        page.set_input_files(f"#{role} input", file)
    page.wait_for_selector("#result[data-state=fail]")
    page.click("#inspect")
    page.wait_for_selector("#result[data-state=fail]")
    page.wait_for_selector("#stage canvas:nth-of-type(2)")


if __name__ == "__main__":
    main()
