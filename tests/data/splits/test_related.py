"""Noise between captions that have something in common: who may be swapped, and with whom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from pipeline.data.captions import clean_caption
from pipeline.data.scenes.scenes import generate_splits
from pipeline.data.splits.format import Split, read_split
from pipeline.data.splits.noise import make_noise
from pipeline.data.splits.partition import partition
from pipeline.data.splits.related import Same, caption_nouns, swaps_by_label, swaps_by_words
from pipeline.data.splits.truth_file import read_noise
from pipeline.errors import InputError
from pipeline.params import NoiseParams, load_params
from tests.data.published import CLEAN, prepare_raw, write_params

CAPTIONS = (
    ("A black dog runs in the grass .", "the dog is running through grass"),
    ("Two dogs playing with a red ball", "A brown dog and its ball ."),
    ("A man in a red shirt holds a ball", "men standing near the street"),
    ("A woman walks down a busy street", "a woman wearing a shirt and two dogs"),
    ("Children jump into water", "the dog is running through grass"),
    ("A boat on the water", "an old boat next to a street"),
)
SPLIT = Split.of([(f"{n}.jpg", captions) for n, captions in enumerate(CAPTIONS)])


def noise(kind: Any, ratio: float = 1.0, seed: int = 1) -> NoiseParams:
    return CLEAN.model_copy(update={"ratio": ratio, "kind": kind, "seed": seed})


def moved(split: Split, params: NoiseParams, **objects: Any) -> list[tuple[int, int]]:
    """The swapped pairs of rows, each once."""
    shuffle = make_noise(split, params, None, **objects)
    assert shuffle is not None
    permutation = shuffle.permutation_M.tolist()
    assert [permutation[permutation[row]] for row in range(len(permutation))] == list(range(len(permutation)))
    return [(row, other) for row, other in enumerate(permutation) if row < other]


def check(split: Split, pairs: list[tuple[int, int]]) -> None:
    for row, other in pairs:
        assert split.caption_image[row] != split.caption_image[other]
        assert clean_caption(split.captions[row], 99) != clean_caption(split.captions[other], 99)


def test_nouns_end_phrases_and_plurals_count_as_their_singular() -> None:
    nouns = caption_nouns(SPLIT.captions)
    assert [set(part) for part in nouns] == [
        {"dog", "grass"},
        {"dog", "grass"},
        {"dog", "ball"},
        {"dog", "ball"},
        {"man", "shirt", "ball"},
        {"man", "street"},
        {"woman", "street"},
        {"woman", "shirt", "dog"},
        {"child", "water"},
        {"dog", "grass"},
        {"boat", "water"},
        {"boat", "street"},
    ]


def test_a_word_that_mostly_stands_inside_a_phrase_is_no_noun() -> None:
    assert caption_nouns(["a red", "a red car", "the red car"]) == [frozenset(), {"car"}, {"car"}]


@pytest.mark.parametrize("seed", range(5))
def test_captions_that_share_a_noun_are_swapped(seed: int) -> None:
    nouns = caption_nouns(SPLIT.captions)
    pairs = moved(SPLIT, noise("noun", seed=seed))
    assert len(pairs) >= 4
    check(SPLIT, pairs)
    for row, other in pairs:
        assert nouns[row] & nouns[other]


def test_only_chosen_captions_move_and_the_seed_decides() -> None:
    rows = np.array([0, 2, 4, 11])
    same = Same(SPLIT.captions, SPLIT.caption_image)
    everywhere = [["x"]] * 12
    found = swaps_by_label(everywhere, rows, same, np.random.RandomState(1))
    assert set(np.flatnonzero(found != np.arange(12))) == set(rows.tolist())
    assert moved(SPLIT, noise("noun")) == moved(SPLIT, noise("noun"))
    assert len({str(moved(SPLIT, noise("noun", seed=seed))) for seed in range(5)}) > 1


def test_a_caption_without_a_partner_stays() -> None:
    same = Same(SPLIT.captions, SPLIT.caption_image)
    labels = [["own"] if row < 2 else [str(row)] for row in range(12)]  # rows 0 and 1 are of one image
    draw = np.random.RandomState(1)
    assert (swaps_by_label(labels, np.arange(12), same, draw) == np.arange(12)).all()
    labels = [["text"] if row in (1, 9) else [] for row in range(12)]  # they say the same
    assert (swaps_by_label(labels, np.arange(12), same, draw) == np.arange(12)).all()


def test_the_most_similar_captions_are_swapped_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.data.splits.related.BLOCK_ROWS", 5)
    chosen = np.array([0, 1, 2, 3, 4, 6, 7, 9, 10, 11])
    same = Same(SPLIT.captions, SPLIT.caption_image)
    texts = [clean_caption(caption, 99) for caption in SPLIT.captions]
    vectors = TfidfVectorizer(analyzer=str.split).fit_transform(texts).toarray()
    rest, expected = set(chosen.tolist()), np.arange(12)
    while True:
        options = [
            (float(vectors[row] @ vectors[other]), row, other)
            for row in rest
            for other in rest
            if row < other and SPLIT.caption_image[row] != SPLIT.caption_image[other] and texts[row] != texts[other]
        ]
        best = max(options, default=(0.0, 0, 0))
        if best[0] <= 0:
            break
        expected[[best[1], best[2]]] = best[2], best[1]
        rest -= {best[1], best[2]}
    found = swaps_by_words(SPLIT.captions, chosen, same)
    check(SPLIT, [(row, other) for row, other in enumerate(found.tolist()) if row < other])
    assert found.tolist() == expected.tolist()
    monkeypatch.setattr("pipeline.data.splits.related.NEIGHBOURS", 1)
    found = swaps_by_words(SPLIT.captions, chosen, same)
    assert (found != np.arange(12)).sum() >= 8, "a caption whose nearest is taken looks again"


def test_scenes_that_share_an_object_exchange_captions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, data__scenes__train=60, data__scenes__val=5, data__scenes__test=5)
    params = prepare_raw(tmp_path)
    lines = partition(tmp_path / "raw", params.split, noise("category", 0.5), tmp_path / "split")
    found = read_noise(tmp_path / "split")
    assert found is not None
    assert any("150 of 300 captions shuffled" in line for line in lines)
    assert 100 < int(found.wrong_M.sum()) <= 150
    scenes = generate_splits(params.scenes)["train"]
    split = read_split(tmp_path / "split/train.json")
    for row in np.flatnonzero(found.wrong_M).tolist():
        here, there = (
            {(shape.colour, shape.kind) for shape in scenes[image].shapes}
            for image in (split.caption_image[row], found.true_image_M[row])
        )
        assert here & there


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__name": "flickr8k", "data__noise__kind": "category"}, "what is in the images of flickr8k is not known"),
        ({"data__noise__kind": "noun", "data__noise__unit": "image"}, "kind noun swaps single captions"),
    ],
)
def test_noise_that_cannot_be_made_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_params(tmp_path, **changes)
    with pytest.raises(InputError, match=message):
        load_params(tmp_path / "params.yaml")
