"""The page in a real browser, without a network."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pandas
import pytest
from PIL import Image

from pipeline.data.splits.format import Split
from pipeline.report.findings import Listing
from pipeline.report.pair_list import PairList, Precision
from pipeline.report.retrieval import Against, Duel
from tests.report.browsing import opened
from tests.report.making import COLOURS, HOSTILE, split_of, write_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

FOUND = "#found [data-item]:visible"


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


def test_what_another_run_wins_and_loses_is_shown_with_pictures(browser: Browser, tmp_path: Path) -> None:
    other = Against("other", {"t2i": 1}, {"i2t": 2}, [Duel("t2i", 0, 0, 1, 7), Duel("i2t", 1, None, 3, 1)])
    page = opened(browser, write_page(tmp_path, split_of(), None, against=other), [])
    shown = [" ".join(text.split()) for text in page.locator("#against article").all_inner_texts()]
    assert shown[0] == "a red square won: rank 1 here, 7 there red.png"
    assert "lost: rank 3 here, 1 there" in shown[1]
