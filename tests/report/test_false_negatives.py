from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pipeline.data.splits.format import Split
from pipeline.report import false_negatives
from pipeline.report.evidence import ListedEvidence
from pipeline.report.false_negatives import by_evidence, by_similarity, false_negative_list
from pipeline.report.findings import match_columns
from pipeline.report.gallery import Embedded
from pipeline.report.labels import Labelled
from pipeline.report.lists import false_negative_table
from pipeline.report.pair_list import MOST_OF_ONE, Reason, precision_at, varied
from tests.report.making import CONFUSED, embedded_of, split_of, truth_of


def random_embedded(images: int = 30, captions: int = 70, width: int = 3) -> Embedded:
    generator = torch.Generator().manual_seed(0)
    image_ND = torch.nn.functional.normalize(torch.randn(images, width, generator=generator), dim=1)
    text_MD = torch.nn.functional.normalize(torch.randn(captions, width, generator=generator), dim=1)
    owners = tuple(row % images for row in range(captions))
    split = Split(tuple(f"{row}.png" for row in range(images)), tuple(f"caption {n}" for n in range(captions)), owners)
    return Embedded(split, None, image_ND=image_ND, text_MD=text_MD)


def listed(*pairs: tuple[int, int, float]) -> dict[str, Tensor]:
    image, caption, log_ratio = zip(*pairs, strict=True)
    columns = {"image_P": torch.tensor(image), "caption_P": torch.tensor(caption)}
    return columns | {"log_ratio_P": torch.tensor(log_ratio)}


def peak(similarity: Tensor) -> Tensor:
    """A posterior that falls again, as FNE's does where positives spread less than negatives."""
    return (-10 * (similarity.double() - 0.6).square()).exp().round(decimals=1)


@pytest.mark.parametrize("posterior", [peak, torch.zeros_like, torch.Tensor.double])
def test_by_similarity_the_list_is_that_of_all_pairs_sorted_with_few_of_each_image(
    posterior: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(false_negatives, "CHUNK_ROWS", 7)
    embedded = random_embedded()
    similarity_NM = embedded.image_ND @ embedded.text_MD.T
    chance_NM = posterior(similarity_NM)
    everything = sorted(
        (-chance_NM[image, caption].item(), -similarity_NM[image, caption].item(), image, caption)
        for image in range(30)
        for caption in range(70)
        if embedded.split.caption_image[caption] != image
    )
    expected: list[tuple[int, int]] = []
    images, captions = Counter[int](), Counter[int]()
    for *_, image, caption in everything:
        if max(images[image], captions[caption]) < MOST_OF_ONE and len(expected) < 20:
            expected.append((image, caption))
            images[image] += 1
            captions[caption] += 1
    found = by_similarity(embedded, "test", posterior, 20)
    assert [(image, caption) for _, image, caption, _ in found] == expected


def test_the_evidence_of_several_splits_makes_one_list() -> None:
    splits: dict[str, Labelled] = {"train": Labelled(split_of(), truth_of((0, 2))), "test": embedded_of(CONFUSED)}
    evidence = {"train": listed((0, 1, 3.0), (0, 2, 5.0)), "test": listed((1, 0, 4.0), (2, 0, 1.0))}
    columns = match_columns(ListedEvidence(evidence, {}, 11, "by hand"))
    found = by_evidence(columns, splits, 3)
    assert [pair[:3] for pair in found] == [("train", 0, 2), ("test", 1, 0), ("train", 0, 1)]
    table = false_negative_list(found, splits, "by hand", 2).table
    assert table["posterior"].tolist() == pytest.approx([1 / (1 + 10 * math.exp(-ratio)) for ratio in (5, 4)])
    assert table["mark"].tolist() == ["true", "unknown"]
    assert math.isnan(table["similarity"][0]), "only the test split is encoded"
    assert table["similarity"][1] == pytest.approx(0.4)


def test_of_equal_evidence_no_image_fills_the_list() -> None:
    splits = {"train": Labelled(Split(*zip(*((f"{n}.png", f"caption {n}", n) for n in range(40)), strict=True)), None)}
    evidence = {"train": listed(*((image, (image + step) % 40, 2.0) for image in range(40) for step in range(1, 20)))}
    columns = match_columns(ListedEvidence(evidence, {}, 11, "by hand"))
    found = by_evidence(columns, splits, 20)
    assert found == by_evidence(columns, splits, 20), "the same list every time"
    assert len({image for _, image, *_ in found}) > 10


def test_equal_captions_of_an_image_are_one_finding_and_an_image_or_a_text_is_there_a_few_times() -> None:
    split = Split(tuple(f"{n}.png" for n in range(9)), ("a thing",) * 9, tuple(range(9)))
    pairs = [("train", image, (image + step) % 9, 0.9) for image in range(9) for step in (1, 2)]
    assert varied(pairs, {"train": split}, 9) == pairs[: 2 * MOST_OF_ONE : 2]
    of_one_image = [("train", 0, caption, 0.9) for caption in range(1, 9)]
    distinct = Split(split.images, tuple(f"caption {n}" for n in range(9)), split.caption_image)
    assert varied(of_one_image, {"train": distinct}, 9) == of_one_image[:MOST_OF_ONE]


def test_precision_counts_the_first_pairs_that_have_a_label() -> None:
    judged = [True] * 19 + [False] * 41
    assert [str(part) for part in precision_at(judged)] == ["19 of 20", "19 of 60"]
    assert [str(part) for part in precision_at([True, None, False] * 100)] == [
        "7 of 13 judged among 20",
        "20 of 40 judged among 60",
        "67 of 133 judged among 200",
    ]
    assert precision_at([None] * 300) == []


def test_precision_is_of_the_ranking_not_of_the_few_that_are_shown() -> None:
    embedded = embedded_of(CONFUSED, truth_of((0, 1), (1, 0)))
    found = by_similarity(embedded, "test", torch.Tensor.double, 10)
    listed = false_negative_list(found, {"test": embedded}, "by hand", 1)
    assert len(listed.table) == 1
    assert str(listed.precision[0]) == f"2 of {len(found)}"


def test_the_table_holds_names_texts_and_each_kind_of_evidence() -> None:
    splits: dict[str, Labelled] = {"train": Labelled(split_of('a square, "red"'), truth_of((1, 0)))}
    pairs = false_negative_list([("train", 1, 0, 0.9), ("train", 2, 1, 0.8)], splits, "by hand", 2)
    pairs = replace(pairs, reasons=[[Reason("words", 0.7, ""), Reason("phrases", 0.6, "")], [Reason("words", 0.5, "")]])
    texts = {name: labelled.split for name, labelled in splits.items()}
    table = false_negative_table(pairs, texts, {"train": torch.tensor([0.25, 1, 1, 1])})
    assert list(table["caption"]) == ['a square, "red"', "a green square"]
    assert list(table["written_for"]) == ["red.png", "green.png"]
    assert list(table["truth"]) == ["true", "false"]
    assert list(table["trust"]) == [0.25, 1.0]
    assert list(table["words"]) == [0.7, 0.5]
    assert math.isnan(table["phrases"][1])
