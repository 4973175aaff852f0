"""The pictures of the documentation are taken from pages as they are now."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.pictures import EDGE, failures_that_are_right
from tests.report.making import split_of, truth_of, write_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium; on Debian: apt-get install chromium")
def test_the_report_s_picture_is_cut_to_the_cards(tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    report = write_page(tmp_path, split_of(), truth_of((0, 1)))
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        failures_that_are_right(browser, report, tmp_path / "right.png")
    picture = Image.open(tmp_path / "right.png").convert("L")
    assert 500 < picture.width <= 1180
    assert picture.height < 1000
    dark = picture.point(lambda value: 255 if value < 128 else 0)
    box = dark.getbbox()
    assert box is not None, "there is text"
    assert min(box[0], box[1]) >= EDGE - 2, "and nothing cut off"
