"""Answers that a person gives on the page: none is lost, and none overrides a newer one."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas
import pytest

from pipeline.data.splits.judgment_file import Judged, Unsure
from pipeline.report.findings import Listing
from pipeline.report.pair_list import PairList
from tests.report.browsing import opened
from tests.report.making import COLOURS, split_of, write_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser


def test_judgments_are_kept_downloaded_and_opened_again(browser: Browser, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    complaints: list[str] = []
    path = write_page(tmp_path, split_of('a "red", square'), None)
    page = opened(browser, path, complaints)
    first = page.locator("#found .question").first
    first.focus()
    page.keyboard.press("y")
    page.locator("#wrong .question").first.get_by_role("button", name="no").click()
    page.keyboard.press("j")
    page.keyboard.press("u")
    page.reload()
    pressed = '.question button[aria-pressed="true"]'
    answers = page.locator(".tally").text_content() or ""
    assert int(answers.split()[0]) == len({tuple(row) for row in _asked(page, pressed)}) >= 3
    with page.expect_download() as waiting:
        page.get_by_text("Download judgments.csv").click()
    file = tmp_path / "judgments.csv"
    waiting.value.save_as(file)
    table = pandas.read_csv(file)
    assert list(table) == ["split", "image", "caption", "verdict", "list", "stratum", "chosen"]
    assert set(table["verdict"]) == {"yes", "no", "unsure"}
    assert table["caption"].isin(['a "red", square', *(f"a {colour} square" for colour in COLOURS)]).all()
    drawn = page.locator("#judge .question").evaluate_all("all => all.map(one => one.dataset.caption)")
    assert (table["chosen"] == "proposed").tolist() == table["caption"].isin(drawn).tolist()
    before = _asked(page, pressed)
    other = opened(browser, path, complaints)  # a browser that has no answers yet
    assert other.locator(pressed).count() == 0
    other.locator('.judging [type="file"]').set_input_files(file)
    expect(other.locator(pressed).first).to_be_attached()
    assert _asked(other, pressed) == before
    assert complaints == []


def _asked(page: Page, pressed: str) -> list[list[str]]:
    """The picture, the caption and the answer of every question with one."""
    script = "all => all.map(one => [one.parentNode.dataset.image, one.parentNode.dataset.caption, one.value])"
    return list(page.eval_on_selector_all(pressed, script))


def test_answers_of_the_data_are_there_from_the_start(browser: Browser, tmp_path: Path) -> None:
    judged = Judged(np.array([3]), np.array([3]), np.array([False]), np.array([True]), np.array([True]))
    page = opened(browser, write_page(tmp_path, split_of(), None, judged), [])
    assert page.locator('#wrong .question button[value="no"][aria-pressed="true"]').count() == 1
    assert "share" in page.locator("#suspects .judged").inner_text()
    assert "Nobody has judged" not in page.locator("#false-negatives").inner_text()
    assert "all listed" in page.locator("#suspects .judged").inner_text()


def judged(*rows: tuple[int, int, bool], proposed: bool = True) -> Judged:
    """Answers about images and captions of the squares."""
    image, caption, match = (np.array(column) for column in zip(*rows, strict=True))
    return Judged(image, caption, match, image == caption, np.full(len(rows), proposed))


def downloaded(page: Page) -> pandas.DataFrame:
    """What the page writes, by image and caption."""
    with page.expect_download() as waiting:
        page.get_by_text("Download judgments.csv").click()
    return pandas.read_csv(waiting.value.path(), keep_default_na=False).set_index(["image", "caption"])


def verdicts(page: Page) -> dict[tuple[str, str], str]:
    return dict(downloaded(page)["verdict"])


RED, GREEN, BLACK = ((f"{colour}.png", f"a {colour} square") for colour in ("red", "green", "black"))


def test_every_answer_of_the_data_is_in_the_download_as_it_was_chosen(browser: Browser, tmp_path: Path) -> None:
    complaints: list[str] = []
    answers = judged((0, 0, True), (3, 3, False), (3, 0, False), (0, 3, True))
    path = write_page(tmp_path, split_of('a "red",\r\nsquare'), None, answers)
    page = opened(browser, path, complaints)
    red = 'a "red", square'
    first = downloaded(page)
    assert dict(first["verdict"]) == {
        ("red.png", red): "yes",
        BLACK: "no",
        ("black.png", red): "no",
        ("red.png", BLACK[1]): "yes",
    }
    assert set(first["chosen"]) == {"proposed"}
    shown = page.locator("#wrong .question").first  # black
    shown.get_by_role("button", name="yes").click()
    page.locator("#wrong .question").nth(1).get_by_role("button", name="yes").click()
    page.reload()
    second = downloaded(page)
    assert dict(second["verdict"]) == dict(first["verdict"]) | {BLACK: "yes", GREEN: "yes"}
    assert set(second.drop(index=[GREEN])["chosen"]) == {"proposed"}
    assert complaints == []


def test_pairs_that_somebody_was_unsure_of_stay_so_and_are_not_proposed_again(browser: Browser, tmp_path: Path) -> None:
    split = split_of()
    page = opened(browser, write_page(tmp_path, split, None), [])
    for question in page.locator("#judge .question").all():
        question.get_by_role("button", name="unsure").click()
    first = verdicts(page)
    assert list(first.values()) == ["unsure"] * 5
    image = np.array([split.images.index(name) for name, _ in first])
    caption = np.array([split.captions.index(text) for _, text in first])
    unsure = Unsure(image, caption, image == caption, np.ones(len(first), bool))
    none = np.zeros(0, np.int64)
    answers = Judged(none, none, none > 0, none > 0, none > 0, unsure)
    page = opened(browser, write_page(tmp_path, split, None, answers), [])
    again = page.locator("#judge .question").evaluate_all("all => all.map(one => one.dataset)")
    assert again
    assert not {(one["image"], one["caption"]) for one in again} & set(first)
    assert verdicts(page) == first
    assert set(downloaded(page)["chosen"]) == {"proposed"}
    assert page.locator('#wrong [value="unsure"][aria-pressed="true"]').count() > 0


def test_an_older_answer_of_the_browser_does_not_override_newer_judgments(browser: Browser, tmp_path: Path) -> None:
    def renewed(*answers: tuple[int, int, bool]) -> None:
        write_page(tmp_path, split_of(), None, judged(*answers))
        page.reload()

    page = opened(browser, write_page(tmp_path, split_of(), None, judged((3, 3, False))), [])
    assert verdicts(page) == {BLACK: "no"}
    renewed((3, 3, True))
    assert verdicts(page) == {BLACK: "yes"}, "it was only looked at"
    for question in page.locator("#wrong .question").all():
        question.get_by_role("button", name="no").click()
    assert verdicts(page) == {BLACK: "no", GREEN: "no"}
    renewed((3, 3, True), (0, 0, True))
    assert verdicts(page) == {BLACK: "no", GREEN: "no", RED: "yes"}, "what was not downloaded is not lost"
    renewed((3, 3, False))
    assert verdicts(page) == {BLACK: "no", GREEN: "no"}
    write_page(tmp_path, split_of(), None)
    page.reload()
    assert verdicts(page) == {GREEN: "no"}, "what the file said is the file's"


def test_an_answer_that_was_taken_back_stays_so(browser: Browser, tmp_path: Path) -> None:
    page = opened(browser, write_page(tmp_path, split_of(), None, judged((3, 3, True))), [])
    black = page.locator("#wrong .question").first
    black.get_by_role("button", name="yes").click()
    assert verdicts(page) == {}
    page.reload()
    assert verdicts(page) == {}
    assert black.locator('[aria-pressed="true"]').count() == 0
    black.get_by_role("button", name="no").click()
    again = downloaded(page)
    assert (dict(again["verdict"]), dict(again["chosen"])) == ({BLACK: "no"}, {BLACK: "proposed"})


def test_a_file_that_says_a_pair_was_proposed_is_believed(browser: Browser, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    by_hand = judged((3, 3, True), (0, 0, True), proposed=False)
    page = opened(browser, write_page(tmp_path, split_of(), None, by_hand), [])
    file = tmp_path / "judgments.csv"
    file.write_text("image,caption,verdict,chosen\nblack.png,a black square,yes,proposed\nred.png,a red square,no,\n")
    page.locator('.judging [type="file"]').set_input_files(file)
    expect(page.locator(".tally")).to_have_text(re.compile("^2 answers"))
    found = downloaded(page)
    assert dict(found["verdict"]) == {BLACK: "yes", RED: "no"}
    assert dict(found["chosen"]) == {BLACK: "proposed", RED: "by hand"}


def test_a_browser_that_keeps_nothing_says_so(browser: Browser, tmp_path: Path) -> None:
    page = opened(browser, write_page(tmp_path, split_of(), None), [])
    page.evaluate("Storage.prototype.setItem = null")
    page.locator("#wrong .question").first.get_by_role("button", name="no").click()
    assert (page.locator(".tally").text_content() or "").endswith("this browser does not keep them: download them")


def test_answers_can_be_saved_where_nothing_is_proposed(browser: Browser, tmp_path: Path) -> None:
    table = pandas.DataFrame({"split": "test", "image": [3, 1], "caption": [3, 1], "trust": [0.1, 0.2]})
    suspects = Listing(PairList(table, "trust", "by hand", []), None)
    nothing = replace(
        suspects, pairs=replace(suspects.pairs, table=table[:0].assign(posterior=0.0, similarity=0.0, mark=""))
    )
    path = write_page(tmp_path, split_of(), None, suspects=suspects, false_negatives=nothing)
    page = opened(browser, path, [])
    page.keyboard.press("j")
    page.keyboard.press("n")
    assert page.locator(".tally").text_content() == "1 answers"
    assert verdicts(page) == {BLACK: "no"}
    assert page.locator("#to-judge article").count() == 0


def test_tens_of_thousands_of_judgments_are_downloaded_too(browser: Browser, tmp_path: Path) -> None:
    path = write_page(tmp_path, split_of(), None, judged((3, 3, True)))
    text = path.read_text()
    end = text.index("</pre>", text.index('id="given"'))
    more = "".join(f"train,{row}.png,a picture of many words number {row},yes,pair,proposed\n" for row in range(40_000))
    path.write_text(text[:end] + more + text[end:])
    page = opened(browser, path, [])
    page.locator("#wrong .question").nth(1).get_by_role("button", name="no").click()
    assert len(downloaded(page)) == 40_002
    kept = page.evaluate("Object.values(localStorage).map(text => text.length)")
    assert max(kept) < 1000, "only what was clicked: a browser keeps no more than 5 MB"
