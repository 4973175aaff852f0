from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.data.splits.format import write_split
from pipeline.errors import InputError
from pipeline.files import write_tensors
from pipeline.report.gallery import read_embedded, retrieval_groups
from tests.report.making import CONFUSED, embedded_of, split_of, truth_of

KEY = "0123456789abcdef" * 4


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


@pytest.fixture
def split(tmp_path: Path) -> Path:
    write_split(tmp_path / "test.json", split_of(), one_row_a_caption=False)
    return tmp_path / "test.json"


def test_vectors_of_another_split_are_refused(split: Path) -> None:
    vectors = split.with_name("embeddings.safetensors")
    write_tensors(vectors, {"image_ND": torch.eye(3), "text_MD": torch.eye(3)}, {"key": KEY})
    with pytest.raises(InputError, match=r"holds 3 images and 3 captions, .*4 and 4; run `dvc repro evaluate`"):
        read_embedded(split, None, vectors)
    vectors.write_bytes(b"cut off")
    with pytest.raises(InputError, match=r"not readable .*run `dvc repro evaluate`"):
        read_embedded(split, None, vectors)


@pytest.mark.parametrize(
    ("kind", "read"),
    [
        *((kind, True) for kind in (torch.float16, torch.bfloat16, torch.float32, torch.float64)),
        *((kind, False) for kind in (torch.float8_e4m3fn, torch.float8_e5m2, torch.int32)),
    ],
    ids=str,
)
def test_vectors_are_read_with_their_evaluation_s_key_if_their_type_can_be_multiplied(
    kind: torch.dtype, read: bool, split: Path
) -> None:
    vectors = split.with_name("embeddings.safetensors")
    write_tensors(vectors, {name: torch.eye(4).to(kind) for name in ("image_ND", "text_MD")}, {"key": KEY})
    if read:
        embedded, key = read_embedded(split, None, vectors)
        assert key == KEY
        assert torch.equal(embedded.text_MD, torch.eye(4).to(kind))
        assert len(retrieval_groups(embedded, 2)) == 2
    else:
        with pytest.raises(InputError, match=rf"embeddings\.safetensors: not readable \(types {kind}"):
            read_embedded(split, None, vectors)
