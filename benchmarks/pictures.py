"""The pictures of README, docs/audit.md and docs/experiments.md, from this clone's report and its runs in MLflow.

After `make repro` and some experiments, with `make ui` in another terminal:
`python -m benchmarks.pictures --ui http://127.0.0.1:5000`. Without `--ui`: those of the report alone. Needs Chromium.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.paths import REPORT

if TYPE_CHECKING:
    from playwright.sync_api import Browser

WIDTH = 1440  # pixels of a laptop's window
HEIGHTS = {"TABLE": 560, "CHART": 900}
NAMES = {"TABLE": "mlflow-runs.png", "CHART": "mlflow-charts.png"}
AUDIT = {"audit-wide.png": (1260, 1560), "audit-narrow.png": (390, 1900)}  # pixels of a window and of a phone's
SHOWN = 4  # queries whose failures are right: two rows of cards
EDGE = 12  # pixels around them
MILLISECONDS = 60_000  # at most, until MLflow's page is there
TO_DRAW = 6_000  # MLflow's charts are moving before


@click.command(name="pictures")
@click.option("--ui", metavar="ADDRESS", help="Where `make ui` answers; without it: the report's alone.")
@click.option("--to", "folder", type=click.Path(path_type=Path), default=Path("docs/images"), show_default=True)
def main(ui: str | None, folder: Path) -> None:
    """Take the pictures anew; look at them before you commit them."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        chromium = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        head_of_audit(browser, REPORT / "index.html", folder)
        failures_that_are_right(browser, REPORT / "index.html", folder / "right.png")
        if ui is not None:
            runs(browser, ui, folder)


def head_of_audit(browser: Browser, report: Path, folder: Path) -> None:
    """The report's beginning, on a wide screen and on a phone."""
    for name, (width, height) in AUDIT.items():
        page = browser.new_page(viewport={"width": width, "height": height})
        page.goto(report.resolve().as_uri())
        page.screenshot(path=folder / name)


def failures_that_are_right(browser: Browser, report: Path, picture: Path) -> None:
    """The first images whose first caption is true, but another image's, as the report shows them."""
    page = browser.new_page(viewport={"width": 1180, "height": 1000})
    page.goto(report.resolve().as_uri())
    page.locator("form[data-filters=queries] select").select_option("i2t")
    page.evaluate("scrollTo(0, 0)")  # boxes are of the window
    heading = page.locator("h4#right")
    cards = page.locator("h4#right ~ .queries").first.locator("article:visible")
    boxes = [one.bounding_box() for one in (heading, *cards.all()[:SHOWN])]
    edges = [(box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"]) for box in boxes if box]
    left, top = (min(edge[side] for edge in edges) - EDGE for side in (0, 1))
    right, bottom = (max(edge[side] for edge in edges) + EDGE for side in (2, 3))
    clip = {"x": left, "y": top, "width": right - left, "height": bottom - top}
    page.screenshot(path=picture, full_page=True, clip=clip)  # type: ignore[arg-type]


def runs(browser: Browser, address: str, folder: Path) -> None:
    """The table and the charts that compare the runs."""
    page = browser.new_page()
    page.goto(address)
    page.wait_for_url("**viewStateShareKey=**", timeout=MILLISECONDS)
    table = page.url
    for mode, height in HEIGHTS.items():
        page.set_viewport_size({"width": WIDTH, "height": height})
        page.goto(table.replace("compareRunsMode=TABLE", f"compareRunsMode={mode}"))
        page.get_by_text("matching run").wait_for(timeout=MILLISECONDS)
        page.wait_for_timeout(TO_DRAW)
        page.screenshot(path=folder / NAMES[mode])


if __name__ == "__main__":
    main()
