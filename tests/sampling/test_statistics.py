"""The two populations: which pairs count, and what mean and variance say about them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.sampling.statistics import Kind, Population, SimilarityStatistics

STATE = {"count": 2.0, "mean": 1.5, "squares": 0.5}  # of the values 1 and 2


def mutually_nearest(similarity_BB: Tensor, known_BB: Tensor | None = None) -> tuple[list[float], list[float]]:
    """The positives and negatives that a batch gives, one pair after another."""
    size, positives, negatives = len(similarity_BB), [], []
    for i in range(size):
        captions = [
            float(similarity_BB[i, j]) for j in range(size) if j != i and not (known_BB is not None and known_BB[i, j])
        ]
        images = [
            float(similarity_BB[j, i]) for j in range(size) if j != i and not (known_BB is not None and known_BB[j, i])
        ]
        own = float(similarity_BB[i, i])
        if captions and images and own > max(captions) and own > max(images):
            positives.append(own)
            negatives += [max(captions), max(images)]
    return positives, negatives


def batches(seed: int, count: int = 6, size: int = 7) -> list[Tensor]:
    """Similarities where some pairs are mutually nearest and some are not."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(size, size, generator=generator) + 0.5 * torch.eye(size) for _ in range(count)]


@given(seed=st.integers(0, 10_000), size=st.integers(1, 9), levels=st.integers(2, 40))
@settings(deadline=None)
def test_only_mutually_nearest_pairs_count(seed: int, size: int, levels: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    similarity_BB = torch.randint(levels, (size, size), generator=generator) / levels  # few levels: many ties
    similarity_BB += torch.eye(size) / 2
    image = torch.randint(max(1, size - 2), (size,), generator=generator)
    known_BB = image[:, None] == image[None, :]
    for known in (None, known_BB):
        statistics = SimilarityStatistics()
        statistics.update(similarity_BB, known)
        positives, negatives = mutually_nearest(similarity_BB, known)
        assert int(statistics.positive.count) == len(positives)
        assert int(statistics.negative.count) == len(negatives)
        if positives:
            assert float(statistics.positive.mean) == pytest.approx(sum(positives) / len(positives))
            assert float(statistics.negative.mean) == pytest.approx(sum(negatives) / len(negatives))


def test_exact_figures_are_those_of_all_batches_at_once() -> None:
    statistics = SimilarityStatistics()
    positives: list[float] = []
    negatives: list[float] = []
    for similarity_BB in batches(seed=1):
        statistics.update(similarity_BB)
        found = mutually_nearest(similarity_BB)
        positives, negatives = positives + found[0], negatives + found[1]
    for population, values in ((statistics.positive, positives), (statistics.negative, negatives)):
        together = torch.tensor(values, dtype=torch.float64)
        torch.testing.assert_close(population.mean, together.mean())
        torch.testing.assert_close(population.variance, together.var())
        assert int(population.count) == len(values)


def test_exact_variance_survives_a_mean_far_from_zero() -> None:
    values = 1e6 + torch.rand(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    population = Population("exact")
    for part in values.split(7):
        population.update(part, torch.ones(len(part), dtype=torch.bool))
    torch.testing.assert_close(population.variance, values.var())


@pytest.mark.parametrize("kind", ["exact", "running"])
def test_single_precision_similarities_are_summed_in_double(kind: Kind) -> None:
    values = 1000 + torch.rand(4000, generator=torch.Generator().manual_seed(0))
    population = Population(kind)
    population.update(values, torch.ones(len(values), dtype=torch.bool))
    for figure in (population.count, population.mean, population.variance):
        assert figure.dtype == torch.float64
    assert float(population.mean) == pytest.approx(float(values.double().mean()), rel=1e-12)
    assert float(population.variance) == pytest.approx(float(values.double().var()), rel=1e-9)


def test_nothing_added_changes_nothing() -> None:
    population = Population("exact")
    population.load_state_dict({name: torch.tensor(value) for name, value in STATE.items()})
    population.update(torch.tensor([9.0, 9.0]), torch.tensor([False, False]))
    assert {name: float(value) for name, value in population.state_dict().items()} == STATE


def test_running_variance_is_around_the_mean_after_each_batch_and_never_corrected() -> None:
    population = Population("running")
    seen: list[float] = []
    squares = 0.0
    for batch in ([0.5, 0.7], [0.1], [0.9, 0.3, 0.2]):
        seen += batch
        mean = sum(seen) / len(seen)
        squares += sum((value - mean) ** 2 for value in batch)
        population.update(torch.tensor(batch, dtype=torch.float64), torch.ones(len(batch), dtype=torch.bool))
        assert float(population.mean) == pytest.approx(mean)
        assert float(population.variance) == pytest.approx(squares / max(1, len(seen) - 1))


def test_where_the_published_code_is_followed_the_first_of_equal_similarities_is_the_nearest() -> None:
    # an image that is in the batch twice ties with itself, as far as the diagonal knows
    similarity_BB = torch.tensor([[0.9, 0.2, 0.1], [0.9, 0.2, 0.1], [0.0, 0.1, 0.8]])
    running, exact = SimilarityStatistics("running"), SimilarityStatistics("exact")
    running.update(similarity_BB)
    exact.update(similarity_BB)
    assert int(running.positive.count) == 2
    assert float(running.positive.mean) == pytest.approx((0.9 + 0.8) / 2)
    assert float(running.negative.mean) == pytest.approx((0.2 + 0.9 + 0.1 + 0.1) / 4)
    assert int(exact.positive.count) == 1


def test_where_the_published_code_is_followed_no_mismatch_counts_below_0() -> None:
    similarity_BB = torch.tensor([[0.9, -0.2, -0.1], [-0.3, 0.8, 0.4], [-0.5, -0.6, 0.7]])
    running, exact = SimilarityStatistics("running"), SimilarityStatistics("exact")
    running.update(similarity_BB)
    exact.update(similarity_BB)
    assert float(running.negative.mean) == pytest.approx((0 + 0.4 + 0 + 0 + 0 + 0.4) / 6)
    assert float(exact.negative.mean) == pytest.approx((-0.1 + 0.4 - 0.5 - 0.3 - 0.2 + 0.4) / 6)
    assert running.positive.state_dict() == exact.positive.state_dict()


@pytest.mark.parametrize("kind", ["exact", "running"])
def test_a_batch_of_one_shows_nothing(kind: Kind) -> None:
    statistics = SimilarityStatistics(kind)
    statistics.update(torch.tensor([[0.9]]))
    assert int(statistics.positive.count) == 0
    assert float(statistics.negative.mean) == 0


@pytest.mark.parametrize("kind", ["exact", "running"])
def test_a_batch_of_one_image_alone_shows_nothing(kind: Kind) -> None:
    statistics = SimilarityStatistics(kind)
    statistics.update(torch.eye(3), torch.ones(3, 3, dtype=torch.bool))
    assert int(statistics.positive.count) == 0
    assert bool(statistics.negative.mean.isfinite())


def test_nothing_seen_is_all_zeros_and_so_is_what_was_reset() -> None:
    statistics = SimilarityStatistics()
    for similarity_BB in batches(seed=2):
        statistics.update(similarity_BB)
    assert int(statistics.positive.count) > 0
    statistics.reset()
    for population in (statistics.positive, statistics.negative):
        assert (float(population.count), float(population.mean), float(population.variance)) == (0, 0, 0)


@pytest.mark.parametrize("kind", ["exact", "running"])
def test_a_saved_state_goes_on_identically(kind: Kind) -> None:
    first, later = batches(seed=3)[:3], batches(seed=3)[3:]
    whole, resumed = SimilarityStatistics(kind), SimilarityStatistics(kind)
    for similarity_BB in first:
        whole.update(similarity_BB)
    resumed.load_state_dict(whole.state_dict())
    for similarity_BB in later:
        whole.update(similarity_BB)
        resumed.update(similarity_BB)
    assert whole.state_dict() == resumed.state_dict()


def test_the_features_get_no_gradient() -> None:
    similarity_BB = torch.eye(3, requires_grad=True)
    statistics = SimilarityStatistics()
    statistics.update(similarity_BB)
    assert not statistics.positive.mean.requires_grad


def test_both_populations_are_told_as_plain_numbers() -> None:
    statistics = SimilarityStatistics("exact")
    statistics.positive.update(torch.tensor([0.5, 0.75]), torch.tensor([True, True]))
    statistics.negative.update(torch.tensor([0.25, 0.75, 9.0]), torch.tensor([True, True, False]))
    told = statistics.as_numbers()
    assert told == {
        "positive": {"mean": 0.625, "variance": pytest.approx(float(statistics.positive.variance)), "count": 2},
        "negative": {"mean": 0.5, "variance": pytest.approx(float(statistics.negative.variance)), "count": 2},
    }
    assert told["positive"]["variance"] != told["negative"]["variance"]
