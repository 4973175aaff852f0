"""The page in a real browser, without a network."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas
import pytest
from PIL import Image

from pipeline.data.splits.format import Split
from pipeline.data.splits.judgment_file import Judged, Unsure
from pipeline.report.findings import Listing
from pipeline.report.pair_list import PairList, Precision
from pipeline.report.retrieval import Against, Duel
from tests.report.making import COLOURS, HOSTILE, split_of, truth_of, write_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FOUND = "#found [data-item]:visible"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("needs Chromium; on Debian: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(tmp_path_factory.mktemp("report"), split_of(), truth_of((0, 1)))


def opened(browser: Browser, path: Path, complaints: list[str], *, scripts: bool = True, width: int = 1280) -> Page:
    """The page, offline; what the console says and what is asked of a network goes into `complaints`."""
    size = {"width": width, "height": 800}
    page = browser.new_context(offline=True, java_script_enabled=scripts, viewport=size).new_page()  # type: ignore[arg-type]
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda asked: None if asked.url.startswith(("file:", "data:")) else complaints.append(asked.url))
    page.goto(path.as_uri())
    return page


def test_it_loads_offline_in_one_request_and_without_a_complaint(browser: Browser, path: Path) -> None:
    complaints: list[str] = []
    page = opened(browser, path, complaints)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.reload()
    assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
    assert page.title() == "Audit: squares"
    assert page.evaluate("[...document.images].map(chart => chart.complete && chart.naturalWidth > 300)") == [True] * 3
    assert complaints == []


@pytest.mark.parametrize("scripts", [True, False])
def test_pictures_show_their_colours(browser: Browser, path: Path, scripts: bool) -> None:
    page = opened(browser, path, [], scripts=scripts)
    for row, colour in enumerate(COLOURS[:3]):
        drawn = page.locator(f'svg.picture:has(use[href="#{_key(page, colour)}"])').locator("visible=true").first
        pixels = Image.open(io.BytesIO(drawn.screenshot())).convert("RGB")
        middle = pixels.getpixel((pixels.width // 2, pixels.height // 2))
        assert isinstance(middle, tuple)
        assert middle.index(max(middle)) == row, f"{colour}: {middle}"
        assert f"{colour}.png" in (drawn.locator("title").text_content() or ""), "what it is, in words"


def _key(page: Page, colour: str) -> str:
    shown = page.locator(f'svg.picture:has(title:text("Image {colour}.png"))').first
    return str(shown.locator("use").get_attribute("href")).removeprefix("#")


def test_each_picture_is_embedded_once(path: Path) -> None:
    text = path.read_text()
    assert len(re.findall("data:image/(?:png|webp)", text)) == len(COLOURS)
    assert text.count("<use ") > len(COLOURS)


def test_search_and_filter_narrow_the_list_and_say_so(browser: Browser, path: Path) -> None:
    from playwright.sync_api import expect

    page = opened(browser, path, [])
    form = page.locator('[data-filters="found"]')
    assert page.locator(FOUND).count() == 5
    form.get_by_label("Search").fill("GREEN square")
    shown = page.locator(FOUND).all_inner_texts()
    assert 0 < len(shown) < 5
    texts = [item.get_attribute("data-text") or "" for item in page.locator(FOUND).all()]
    assert all("green" in text for text in texts)
    form.get_by_label("Search").fill("no such words")
    assert page.locator(FOUND).count() == 0
    assert form.locator(".shown").text_content() == "0 of the 5 pairs on this page"
    form.get_by_role("button", name="Clear").click()
    expect(page.locator(FOUND)).to_have_count(5)  # the page's policy forbids to wait for a script
    form.get_by_label("Truth").select_option("true")
    assert page.locator(FOUND).count() == 1
    assert "a green square" in page.locator(FOUND).inner_text()
    assert page.locator("#queries [data-item]:not([hidden])").count() > 1, "the other lists stay as they are"


def test_the_keyboard_reaches_everything(browser: Browser, path: Path) -> None:
    page = opened(browser, path, [])
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.get_by_text("Why, and the caption's own picture").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("details[open]").count() == 1
    page.locator("#found .picture").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("dialog").is_visible()
    assert "Image" in (page.locator("dialog title").text_content() or "")
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()


def test_without_scripts_all_is_there_and_no_form_pretends_to_work(browser: Browser, path: Path) -> None:
    page = opened(browser, path, [], scripts=False)
    assert page.locator(FOUND).count() == 5
    assert page.locator("form:visible").count() == 0
    assert (
        page.locator("#to-judge, .question, kbd, button, nav a[href='#to-judge']").locator("visible=true").count() == 0
    )


@pytest.mark.parametrize("width", [1440, 390])
def test_nothing_is_wider_than_the_screen(browser: Browser, path: Path, width: int) -> None:
    page = opened(browser, path, [], width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_hostile_caption_is_shown_and_does_nothing(browser: Browser, tmp_path: Path) -> None:
    complaints: list[str] = []
    path = write_page(tmp_path, split_of(HOSTILE), None)
    page = opened(browser, path, complaints)
    assert page.title() == "Audit: squares"
    assert page.locator("script").count() == 1
    assert page.locator("main img:not(.chart img)").count() == 0
    assert HOSTILE in page.locator("#queries").inner_text()
    page.locator('[data-filters="found"]').get_by_label("Search").fill('onerror="document.title')
    assert page.locator(FOUND).count() > 0
    assert complaints == []


def test_a_hostile_file_name_run_name_and_parameter_are_shown_and_do_nothing(browser: Browser, tmp_path: Path) -> None:
    complaints: list[str] = []
    split = split_of()
    split = Split((HOSTILE, *split.images[1:]), split.captions, split.caption_image)
    footer = [("run", HOSTILE), (HOSTILE, "javascript:document.title = 1")]
    figures = {f"{way}_{cutoff}": 12.3 for way in ("i2t", "t2i") for cutoff in ("R1", "R5", "R10")}
    published = [{"method": HOSTILE, "noise": 0.2, "source": HOSTILE, "remark": HOSTILE, **figures}]
    path = write_page(tmp_path, split, None, title=HOSTILE, footer=footer, published=published)
    page = opened(browser, path, complaints)
    assert page.title() == HOSTILE
    assert page.locator("script").count() == 1
    assert page.locator("main img:not(.chart img)").count() == 0
    assert page.locator('[href^="javascript"]').count() == 0
    named = page.locator("svg.picture title").all_text_contents()
    assert f"Image {HOSTILE}; its own caption: a red square" in named
    assert HOSTILE in page.locator("#recalls").inner_text()
    page.locator('[data-filters="found"]').get_by_label("Search").fill('onerror="document.title')
    assert page.title() == HOSTILE
    assert complaints == []


def test_what_slipped_in_would_not_run(browser: Browser, path: Path, tmp_path: Path) -> None:
    attacked = tmp_path / "index.html"
    attack = '<script>document.title = "taken"</script><p onclick="document.title = 1" id="trap">x</p>'
    attacked.write_text(path.read_text().replace('<main id="main"', f'{attack}<main id="main"'))
    complaints: list[str] = []
    page = opened(browser, attacked, complaints)
    page.locator("#trap").click()
    assert page.title() == "Audit: squares"
    assert all("Content Security Policy" in complaint for complaint in complaints)
    assert len(complaints) >= 2


def test_intervals_and_published_figures_stand_beside_the_runs_own(browser: Browser, tmp_path: Path) -> None:
    side = {"R1": [70.1, 79.9], "R5": [99.0, 100.0], "R10": [99.5, 100.0]}
    figures = {f"{way}_{cutoff}": 12.3 for way in ("i2t", "t2i") for cutoff in ("R1", "R5", "R10")}
    published = [{"method": "NPC", "noise": 0.2, "source": "its README", "remark": "a known error", **figures}]
    intervals = {"i2t": side, "t2i": side, "rsum": [440.0, 460.0]}
    path = write_page(tmp_path, split_of(), None, intervals=intervals, published=published)
    rows = opened(browser, path, []).locator("#recalls tbody tr")
    best, last, other = (" ".join(text.split()) for text in rows.all_inner_texts())
    assert best.startswith("best validation 75.0 70.1–79.9 100.0 99.0–100.0")
    assert best.endswith("450.0 440.0–460.0")
    assert "–" not in last
    assert other.startswith("NPC published, noise 0.2: its README; a known error 12.3 12.3")


def test_where_the_noise_is_known_each_suspect_says_whether_it_is_wrong(browser: Browser, tmp_path: Path) -> None:
    table = pandas.DataFrame(
        {"split": "test", "image": [0, 1], "caption": [0, 1], "trust": [0.1, 0.2], "weight": [0.7, float("nan")]}
    ).assign(written_for=[2, 1])
    suspects = Listing(PairList(table, "trust", "by hand", [Precision(2, 1, 2)]), None)
    page = opened(browser, write_page(tmp_path, split_of(), None, suspects=suspects), [])
    said = [" ".join(text.split()) for text in page.locator("#wrong .badge").all_inner_texts()]
    assert said == ["wrong in truth", "right in truth"]
    assert [" weight (NPC)" in text for text in page.locator("#wrong [data-item]").all_inner_texts()] == [True, False]
    assert "1 of 2 are wrong in truth" in page.locator("#suspects .precision").inner_text()
    page.locator('[data-filters="wrong"]').get_by_label("Noise").select_option("noise")
    assert "a red square" in page.locator("#wrong [data-item]:visible").inner_text()


def test_precision_is_above_the_list_where_the_truth_is_known(browser: Browser, path: Path, tmp_path: Path) -> None:
    said = opened(browser, path, []).locator("#false-negatives .precision").inner_text()
    assert said == "Precision at the top of the list: 1 of 5 match in truth."
    assert opened(browser, write_page(tmp_path, split_of(), None), []).locator(".precision").count() == 0


def test_a_picture_has_one_card_and_more_cards_come_on_demand(browser: Browser, tmp_path: Path) -> None:
    page = opened(browser, write_page(tmp_path, split_of(), None), [])
    titles = page.locator("#found > article > .picture > title").all_text_contents()
    assert len(titles) == len(set(titles)) < page.locator("#found [data-item]").count()
    long = pandas.DataFrame({"split": "test", "image": range(4), "caption": range(4), "trust": 0.1})
    suspects = Listing(PairList(long, "trust", "by hand", []), None)
    path = write_page(tmp_path, split_of(), None, suspects=suspects)
    path.write_text(path.read_text().replace('id="wrong" class="cards" data-more="12"', 'id="wrong" data-more="2"'))
    page = opened(browser, path, [])
    shown = page.locator("#wrong > article:visible")
    assert shown.count() == 2
    page.locator("#wrong + .more").click()
    assert shown.count() == 4
    assert not page.locator("#wrong + .more").is_visible()


def test_the_slider_says_how_many_and_how_right_and_the_list_follows(browser: Browser, path: Path) -> None:
    page = opened(browser, path, [])
    form, slider = page.locator('[data-filters="found"]'), page.locator('[data-filters="found"] [type=range]')
    said = form.locator(".precise")
    assert said.text_content() == "5 pairs; by their probabilities 2 of them match (34 %); in truth 1 of 5 known (20 %)"
    slider.fill("49")  # probability 0.5
    assert page.locator(FOUND).count() == 1
    assert (said.text_content() or "").endswith("1 of them match (70 %); in truth 1 of 1 known (100 %)")
    slider.fill("98")
    assert page.locator(FOUND).count() == 0
    assert said.text_content() == "0 pairs; by their probabilities 0 of them match"


def test_it_is_dark_where_the_system_is_and_long_names_are_cut_not_broken(browser: Browser, tmp_path: Path) -> None:
    name = f"{'a_long_name' * 12}.png"
    split = split_of()
    path = write_page(tmp_path, Split((name, *split.images[1:]), split.captions, split.caption_image), None)
    page = opened(browser, path, [], width=390)
    page.emulate_media(color_scheme="dark")
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert sum(int(part) for part in re.findall(r"\d+", paper)[:3]) < 150
    shown = page.locator(f'#found .name[title="{name}"]').first
    assert shown.evaluate("name => name.getClientRects().length") == 1
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


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
    assert "any, all listed" in page.locator("#suspects .judged").inner_text()


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


def test_what_another_run_wins_and_loses_is_shown_with_pictures(browser: Browser, tmp_path: Path) -> None:
    other = Against("other", {"t2i": 1}, {"i2t": 2}, [Duel("t2i", 0, 0, 1, 7), Duel("i2t", 1, None, 3, 1)])
    page = opened(browser, write_page(tmp_path, split_of(), None, against=other), [])
    shown = [" ".join(text.split()) for text in page.locator("#against article").all_inner_texts()]
    assert shown[0] == "a red square won: rank 1 here, 7 there red.png"
    assert "lost: rank 3 here, 1 there" in shown[1]
