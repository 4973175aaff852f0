from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipeline.data.splits.format import Split, write_split
from pipeline.errors import InputError
from pipeline.files import write_tensors
from pipeline.report import gallery
from pipeline.report.gallery import Embedded, false_negatives, least_similar_pairs, read_embedded, retrieval_groups
from tests.report.making import embedded_of, split_of, truth_of

KEY = "0123456789abcdef" * 4
CONFUSED = [[0.5, 0.7, 0.1, 0.0], [0.4, 0.6, 0.2, 0.1], [0.0, 0.1, 0.9, 0.2], [0.1, 0.0, 0.2, 0.8]]


def random_embedded(images: int = 30, captions: int = 70, width: int = 3) -> Embedded:
    generator = torch.Generator().manual_seed(0)
    image_ND = torch.nn.functional.normalize(torch.randn(images, width, generator=generator), dim=1)
    text_MD = torch.nn.functional.normalize(torch.randn(captions, width, generator=generator), dim=1)
    owners = tuple(row % images for row in range(captions))
    split = Split(tuple(f"{row}.png" for row in range(images)), tuple(f"caption {n}" for n in range(captions)), owners)
    return Embedded(split, image_ND, text_MD, None)


def peak(similarity: Tensor) -> Tensor:
    """A posterior that falls again, as FNE's does where positives spread less than negatives."""
    return (-10 * (similarity.double() - 0.6).square()).exp().round(decimals=1)


@pytest.mark.parametrize("posterior", [peak, torch.zeros_like, torch.Tensor.double])
def test_the_most_probable_pairs_are_those_of_the_sorted_list_of_all(
    posterior: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery, "CHUNK_ROWS", 7)
    embedded = random_embedded()
    similarity_NM = embedded.image_ND @ embedded.text_MD.T
    chance_NM = posterior(similarity_NM)
    everything = sorted(
        (-chance_NM[image, caption].item(), -similarity_NM[image, caption].item(), image, caption)
        for image in range(30)
        for caption in range(70)
        if embedded.split.caption_image[caption] != image
    )
    found = false_negatives(embedded, posterior, 20)
    assert list(zip(found["image"], found["caption"], strict=True)) == [row[2:] for row in everything[:20]]


def test_an_images_equal_captions_are_one_finding() -> None:
    embedded = embedded_of(CONFUSED, split=split_of("a square", "a thing", "a thing", "a thing"))
    found = false_negatives(embedded, torch.Tensor.double, 10)
    texts = [(row["image"], embedded.split.captions[row["caption"]]) for row in found.to_dict("records")]
    assert len(set(texts)) == len(texts)
    assert found.iloc[0]["similarity"] == pytest.approx(0.7)


def test_a_pair_is_own_or_what_the_truth_says() -> None:
    exact = embedded_of(CONFUSED, truth_of((0, 1)))
    assert [exact.mark(0, caption) for caption in range(3)] == ["own", "true", "false"]
    judged = embedded_of(CONFUSED, truth_of((0, 1), false=((0, 2),), exact=False))
    assert [judged.mark(0, caption) for caption in range(1, 4)] == ["true", "false", "unjudged"]
    assert embedded_of(CONFUSED).mark(0, 1) == "unknown"


def test_queries_are_successes_failures_or_right_after_all() -> None:
    shown = {
        group.name: [(query.direction, query.row, query.own_place) for query in group.queries]
        for group in retrieval_groups(embedded_of(CONFUSED, truth_of((0, 1))), 9)
    }
    assert shown["successes"] == [("i2t", 1, 1), ("i2t", 2, 1), ("i2t", 3, 1), *(("t2i", n, 1) for n in (0, 2, 3))]
    assert shown["failures"] == []
    # image red finds green's caption first, and caption green finds image red: the truth says they match
    assert shown["right"] == [("i2t", 0, 2), ("t2i", 1, 2)]


def test_ties_count_against_the_model() -> None:
    equal = [[0.5, 0.5, 0.1, 0.0], *CONFUSED[1:]]
    right = retrieval_groups(embedded_of(equal, truth_of((0, 1))), 9)[2]
    query = right.queries[0]
    assert (query.direction, query.row, query.own_place) == ("i2t", 0, 2)
    assert [result.mark for result in query.results[:2]] == ["true", "own"]


def test_without_a_truth_no_failure_is_right() -> None:
    groups = retrieval_groups(embedded_of(CONFUSED), 9)
    assert [group.name for group in groups] == ["successes", "failures"]
    assert groups[1].found == {"i2t": 1, "t2i": 1}
    assert [result.mark for result in groups[1].queries[0].results] == ["unknown", "own", "unknown", "unknown"]


def test_few_queries_are_spread_over_the_split() -> None:
    groups = retrieval_groups(embedded_of(torch.eye(4).tolist()), 2)
    assert [query.row for query in groups[0].queries] == [1, 3, 1, 3]


def test_the_least_similar_own_pairs_come_first() -> None:
    pairs = least_similar_pairs(embedded_of(CONFUSED), 2)
    assert pairs.to_dict("list") == {"image": [0, 1], "caption": [0, 1], "similarity": pytest.approx([0.5, 0.6])}


def test_vectors_of_another_split_are_refused(tmp_path: Path) -> None:
    write_split(tmp_path / "test.json", split_of(), one_row_a_caption=False)
    vectors = tmp_path / "embeddings.safetensors"
    write_tensors(vectors, {"image_ND": torch.eye(3), "text_MD": torch.eye(3)}, {"key": KEY})
    with pytest.raises(InputError, match=r"holds 3 images and 3 captions, .*4 and 4; run `dvc repro evaluate`"):
        read_embedded(tmp_path / "test.json", None, vectors)
    vectors.write_bytes(b"cut off")
    with pytest.raises(InputError, match=r"not readable .*run `dvc repro evaluate`"):
        read_embedded(tmp_path / "test.json", None, vectors)


def test_vectors_come_with_the_key_of_their_evaluation(tmp_path: Path) -> None:
    write_split(tmp_path / "test.json", split_of(), one_row_a_caption=False)
    vectors = tmp_path / "embeddings.safetensors"
    write_tensors(vectors, {"image_ND": torch.eye(4), "text_MD": torch.eye(4)}, {"key": KEY})
    embedded, key = read_embedded(tmp_path / "test.json", None, vectors)
    assert key == KEY
    assert torch.equal(embedded.text_MD, torch.eye(4))


@pytest.mark.parametrize(
    ("kind", "read"),
    [
        *((kind, True) for kind in (torch.float16, torch.bfloat16, torch.float32, torch.float64)),
        *((kind, False) for kind in (torch.float8_e4m3fn, torch.float8_e5m2, torch.int32)),
    ],
    ids=str,
)
def test_vectors_are_of_a_type_that_can_be_multiplied_or_refused(kind: torch.dtype, read: bool, tmp_path: Path) -> None:
    write_split(tmp_path / "test.json", split_of(), one_row_a_caption=False)
    vectors = tmp_path / "embeddings.safetensors"
    write_tensors(vectors, {name: torch.eye(4).to(kind) for name in ("image_ND", "text_MD")}, {"key": KEY})
    if read:
        embedded, _ = read_embedded(tmp_path / "test.json", None, vectors)
        assert len(retrieval_groups(embedded, 2)) == 2
    else:
        with pytest.raises(InputError, match=rf"embeddings\.safetensors: not readable \(types {kind}"):
            read_embedded(tmp_path / "test.json", None, vectors)
