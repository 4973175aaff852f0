"""From the page to the training and back: judge in a browser, download, train with it, and see what changed."""

from __future__ import annotations

from pathlib import Path

import pandas
import pytest

from pipeline.data.splits.format import read_split
from pipeline.data.splits.judgment_file import read_judged
from pipeline.files import read_record
from tests.report.browsing import CHROMIUM
from tests.stages.running import run, write_tiny_params

pytestmark = [pytest.mark.browser, pytest.mark.end_to_end]
SETTINGS = {
    "pairs__weighting": "evidence",
    "audit__split": "train",
    "loss__name": "infonce",
    "sampler__strategy": "all",
}


def test_judgments_go_from_the_page_into_the_training_and_change_the_next_page(ready: Path, tmp_path: Path) -> None:
    if CHROMIUM is None:
        pytest.skip("needs Chromium; on Debian: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    write_tiny_params(ready, **SETTINGS)
    run("train", "evaluate", "audit")
    file = tmp_path / "judgments.csv"
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto((ready / "report/index.html").as_uri())
        for list_, verdict in (("found", "yes"), ("wrong", "no")):
            page.locator(f"#{list_} .question").first.locator(f'[value="{verdict}"]').click()
        for question in page.locator("#judge .question:visible").all()[:4]:
            question.locator('[value="yes"]').click()
        with page.expect_download() as waiting:
            page.get_by_text("Download judgments.csv").click()
        waiting.value.save_as(file)
        browser.close()
    answers = pandas.read_csv(file)
    before = read_record(Path("train/run.json"))["key"]

    write_tiny_params(ready, data__judgments=str(file), **SETTINGS)
    said = run("split")
    assert f"judgments: {len(answers)} used" in said
    judged, split = read_judged(Path("data/split"), "train"), read_split(Path("data/split/train.json"))
    assert judged is not None
    wrong = answers[(answers["verdict"] == "no")].iloc[0]
    rows = [row for row, own, match in zip(judged.caption_J, judged.own_J, judged.match_J, strict=True) if own > match]
    assert {split.captions[row] for row in rows} == {wrong["caption"]}
    run("evidence", "train", "evaluate", "audit")
    assert read_record(Path("train/run.json"))["key"] != before, "another training"
    facts = read_record(Path("report/audit.json"))
    assert facts["matches"]["asked"] + facts["wrong"]["asked"] >= 2
    page_text = Path("report/index.html").read_text()
    assert "judged likely matches do match" in page_text
    assert "judged suspected pairs are wrong" in page_text
    weights = pandas.read_csv("train/history.csv")["pairs/weight_mean"]
    trust = pandas.read_parquet("report/pairs.parquet")
    assert (trust[trust["answer"] == "no"]["caption"] == wrong["caption"]).all()
    assert weights.notna().any()
