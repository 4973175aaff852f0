"""Ranks and recalls agree with the published code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.retrieval.ranks import retrieval_ranks
from pipeline.retrieval.recall import recalls, retrieval_report

GOLDEN = Path(__file__).parents[1] / "golden" / "recall.npz"
CAPTIONS_AN_IMAGE = 5


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as figures:
        return dict(figures)


@pytest.fixture(scope="module")
def ranks(golden: dict[str, np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    image_ND, text_MD = torch.from_numpy(golden["image"]), torch.from_numpy(golden["text"])
    return retrieval_ranks(image_ND, text_MD, torch.arange(len(text_MD)) // CAPTIONS_AN_IMAGE)


def test_every_rank_agrees(golden: dict[str, np.ndarray], ranks: tuple[torch.Tensor, torch.Tensor]) -> None:
    assert ranks[0].tolist() == golden["i2t_ranks"].tolist()
    assert ranks[1].tolist() == golden["t2i_ranks"].tolist()


def test_every_recall_agrees(golden: dict[str, np.ndarray], ranks: tuple[torch.Tensor, torch.Tensor]) -> None:
    figures = recalls(*ranks)
    for direction in ("i2t", "t2i"):
        published = golden[direction]
        found = [figures[f"{direction}_R{cutoff}"] for cutoff in (1, 5, 10)]
        assert found == pytest.approx(published[:3].tolist())
    assert figures["rsum"] == pytest.approx(golden["i2t"][:3].sum() + golden["t2i"][:3].sum())


def test_the_median_rank_agrees(golden: dict[str, np.ndarray], ranks: tuple[torch.Tensor, torch.Tensor]) -> None:
    report = retrieval_report(*ranks)
    assert report["i2t"]["median_rank"] == golden["i2t"][3]
    assert report["t2i"]["median_rank"] == golden["t2i"][3]
