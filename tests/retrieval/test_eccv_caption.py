"""Figures on MS-COCO's own test ids agree with those of the package eccv-caption, whose authors judged the pairs."""

from __future__ import annotations

import json
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.retrieval.recall import folded_ranks, retrieval_report
from pipeline.retrieval.relevance import precision_at_r

pytestmark = pytest.mark.filterwarnings("ignore:failed to import")

DATA = Path(str(distribution("eccv-caption").locate_file("eccv_caption/data")))
DEEP = 150  # of 5 000 candidates: every fold has more than ten among them
SIDES = ("i2t", "t2i")


class Coco(NamedTuple):
    """Synthetic features under COCO's ids, in the published order."""

    image_ids: list[int]
    caption_ids: list[int]
    image_ND: Tensor
    text_MD: Tensor
    caption_image_M: Tensor

    def side(self, direction: str) -> tuple[Tensor, Tensor, list[int], list[int]]:
        """Query and item features, query and item ids."""
        both = (self.image_ND, self.text_MD, self.image_ids, self.caption_ids)
        return both if direction == "i2t" else (both[1], both[0], both[3], both[2])


@pytest.fixture(scope="module")
def coco() -> Coco:
    caption_ids = np.load(DATA / "coco_test_ids.npy").tolist()
    owner = json.loads((DATA / "original_caption_to_image.json").read_text())
    image_of = [owner[str(caption)][0] for caption in caption_ids]
    image_ids = list(dict.fromkeys(image_of))
    row = {image: index for index, image in enumerate(image_ids)}
    caption_image_M = torch.tensor([row[image] for image in image_of])
    generator = torch.Generator().manual_seed(0)
    image_ND = normalize(torch.randn(len(image_ids), 16, generator=generator), dim=1)
    noise_MD = torch.randn(len(caption_ids), 16, generator=generator)
    return Coco(
        image_ids, caption_ids, image_ND, normalize(image_ND[caption_image_M] + 0.3 * noise_MD), caption_image_M
    )


def retrieved(coco: Coco, direction: str, asked: list[int], depth: int) -> dict[int, list[int]]:
    """The package's input: for each query's id the ids of its best items."""
    query_QD, item_ID, query_ids, item_ids = coco.side(direction)
    row = {identity: index for index, identity in enumerate(query_ids)}
    best = [
        (query_BD @ item_ID.T).topk(depth, dim=1).indices
        for query_BD in query_QD[[row[identity] for identity in asked]].split(1000)
    ]
    names = np.array(item_ids)
    return dict(zip(asked, names[torch.cat(best).numpy()].tolist(), strict=True))


@pytest.fixture(scope="module")
def lists(coco: Coco) -> dict[str, dict[int, list[int]]]:
    return {side: retrieved(coco, side, coco.side(side)[2], DEEP) for side in SIDES}


@pytest.fixture(scope="module")
def package() -> Any:
    from eccv_caption import Metrics

    return Metrics()


@pytest.mark.parametrize(("folds", "name"), [(1, "coco_5k_recalls"), (5, "coco_1k_recalls")])
def test_recalls_on_coco_agree(
    folds: int, name: str, coco: Coco, lists: dict[str, dict[int, list[int]]], package: Any
) -> None:
    reports = [
        retrieval_report(*ranks) for ranks in folded_ranks(coco.image_ND, coco.text_MD, coco.caption_image_M, folds)
    ]
    for cutoff in (1, 5, 10):
        published = getattr(package, name)(lists, "all", K=cutoff)
        for side in SIDES:
            found = np.mean([report[side][f"R{cutoff}"] for report in reports])
            assert 5 < found < 99.9, "features that say something"
            assert found == pytest.approx(100 * published[side])


def test_graded_figures_on_eccv_caption_agree(coco: Coco, package: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # ECCV Caption confirmed two captions that are not among the published five of their images
    there = {side: set(coco.side(side)[3]) for side in SIDES}
    truths = {
        side: {
            query: [item for item in items if item in there[side]] for query, items in package.eccv_gts[side].items()
        }
        for side in SIDES
    }
    monkeypatch.setattr(package, "eccv_gts", truths)
    deepest = max(len(items) for side in SIDES for items in truths[side].values())
    lists = {side: retrieved(coco, side, list(truths[side]), deepest) for side in SIDES}
    published = package.eccv_metrics(lists, "all")
    for side in SIDES:
        query_QD, item_ID, query_ids, item_ids = coco.side(side)
        rows = [{identity: index for index, identity in enumerate(ids)} for ids in (query_ids, item_ids)]
        pairs = [(rows[0][query], rows[1][item]) for query, items in truths[side].items() for item in set(items)]
        average, precision = precision_at_r(query_QD, item_ID, *torch.tensor(pairs).T)
        assert len(average) == len(truths[side])
        assert average.mean().item() == pytest.approx(published["eccv_map_at_r"][side])
        assert precision.mean().item() == pytest.approx(published["eccv_rprecision"][side])
