"""Signatures that others call: names and defaults as the design fixes them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from pipeline.evidence.alignment import fit_cca
from pipeline.evidence.captions import caption_agreement
from pipeline.evidence.posterior import fit_posterior
from pipeline.evidence.trust import pair_trust
from pipeline.models.memory import Memory
from pipeline.objectives.contrastive import infonce_loss
from pipeline.objectives.triplet import triplet_loss
from pipeline.retrieval.ranks import retrieval_ranks
from pipeline.retrieval.recall import recalls, retrieval_report
from pipeline.sampling.posterior import false_negative_posterior
from pipeline.sampling.statistics import SimilarityStatistics
from pipeline.sampling.strategies import fne_weights


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (SimilarityStatistics, ["kind='exact'"]),
        (SimilarityStatistics.update, ["self", "similarity_BB", "known_positive_BB=None"]),
        (false_negative_posterior, ["similarity", "positive", "negative", "prior"]),
        (triplet_loss, ["similarity_BC", "own_similarity_B", "negative_B", "margin"]),
        (
            infonce_loss,
            ["similarity_BC", "own_similarity_B", "weights_BC", "temperature", "targets=None", "margins=None"],
        ),
        (Memory, ["size", "width", "prefill='empty'"]),
        (caption_agreement, ["caption_MV", "caption_image_M", "image_K", "caption_K"]),
        (pair_trust, ["image_NW", "caption_MV", "caption_image_M", "folds=5", "seed=1"]),
        (fit_posterior, ["positive_KF", "negative_KF", "prior"]),
        (
            fit_cca,
            ["image_NW", "caption_MV", "caption_image_M", "image_ridge=1.0", "text_ridge=0.5", "weight_M=None"],
        ),
    ],
)
def test_arguments_keep_their_names_order_and_defaults(function: Callable[..., Any], arguments: list[str]) -> None:
    parameters = inspect.signature(function).parameters.values()
    found = [p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in parameters]
    assert found == arguments


def test_the_sampling_weights_choices_go_by_name() -> None:
    parameters = inspect.signature(fne_weights).parameters.values()
    by_place = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]
    by_name = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    assert by_place == ["similarity_BC", "own_similarity_B", "known_positive_BC", "statistics"]
    assert by_name == ["cutdown", "alpha", "prior", "suspect", "min_matches", "suspect_alpha"]
    assert {p.name: p.default for p in parameters if p.default is not p.empty} == {"suspect_alpha": None}


def test_statistics_answer_with_mean_variance_and_count() -> None:
    statistics = SimilarityStatistics(kind="running")
    statistics.update(torch.eye(3), known_positive_BB=torch.eye(3, dtype=torch.bool))
    for population in (statistics.positive, statistics.negative):
        assert all(float(figure) >= 0 for figure in (population.mean, population.variance, population.count))
    statistics.reset()
    assert float(statistics.positive.count) == 0


def test_the_memory_shows_its_contents() -> None:
    memory = Memory(size=4, width=2, prefill="random")
    memory.enqueue(torch.ones(1, 2), torch.ones(1, 2), torch.tensor([3]))
    assert memory.image.shape == memory.text.shape == (4, 2)
    assert memory.image_id.shape == memory.filled.shape == (4,)
    assert memory.filled.dtype == torch.bool


def test_ranks_and_recalls_fit_together() -> None:
    image_ND = normalize(torch.rand(4, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    i2t_N, t2i_M = retrieval_ranks(image_ND, image_ND.repeat(2, 1), torch.arange(4).repeat(2), chunk_size=3)
    assert i2t_N.shape == (4,)
    assert t2i_M.shape == (8,)
    figures = recalls(i2t_N, t2i_M)
    assert list(figures) == ["i2t_R1", "i2t_R5", "i2t_R10", "t2i_R1", "t2i_R5", "t2i_R10", "rsum"]
    assert figures["rsum"] == 600
    assert list(retrieval_report(i2t_N, t2i_M)) == ["i2t", "t2i", "rsum"]
