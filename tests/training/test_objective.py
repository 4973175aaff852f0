"""A batch's loss: which candidates are offered, where the gradient flows, and that places in the batch decide draws."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.evidence.listed import ListedPosterior
from pipeline.models.memory import Memory
from pipeline.objectives.triplet import mean_violation_loss, triplet_loss
from pipeline.params import LossParams, Params, SamplerParams, TargetsParams
from pipeline.runtime.processes import uniform
from pipeline.sampling.statistics import SimilarityStatistics
from pipeline.sampling.strategies import random_weights
from pipeline.training.objective import MatchingObjective, Pairs
from tests.paper import paper_params

PARAMS: Params = paper_params()
WIDTH = 8
TEMPERATURE = 0.05


def features(rows: int, seed: int) -> Tensor:
    return normalize(torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(seed)), dim=1)


def pairs(image_id: list[int], seed: int, *, gradient: bool = False) -> Pairs:
    image, text = (features(len(image_id), 10 * seed + side).requires_grad_(gradient) for side in range(2))
    return Pairs(image, text, torch.tensor(image_id), 100 + torch.arange(len(image_id)))


def objective(
    memory: Memory | None = None,
    *,
    warmup: str = "triplet",
    loss: str = "triplet",
    truth_NM: Tensor | None = None,
    evidence: ListedPosterior | None = None,
    targets: str = "own",
    **sampler: Any,
) -> MatchingObjective:
    chosen = SamplerParams.model_validate(PARAMS.sampler.model_dump() | {"cutdown": 2.0} | sampler)
    weighed = LossParams.model_validate(PARAMS.loss.model_dump() | {"name": loss})
    named = TargetsParams.model_validate(PARAMS.targets.model_dump() | {"name": targets})
    parts = (chosen, weighed, warmup, SimilarityStatistics(), memory, truth_NM)
    return MatchingObjective(*parts, evidence=evidence, targets=named)


def loss_of(
    made: MatchingObjective, batch: Pairs, momentum: Pairs | None = None, *, warming_up: bool = False
) -> tuple[Tensor, dict[str, Tensor]]:
    return made(batch, batch, momentum, 0, uniform(1, 2, len(batch.image)), TEMPERATURE, warming_up=warming_up)


def shown_weights(made: MatchingObjective, batch: Pairs, momentum: Pairs | None = None, **how: Any) -> list[Tensor]:
    """The weights by which candidates are drawn, of each direction."""
    shown: list[Tensor] = []

    def draw(weights_bC: Tensor, _: Tensor) -> Tensor:
        shown.append(weights_bC)
        return weights_bC.argmax(dim=1)

    made.draw = draw
    loss_of(made, batch, momentum, **how)
    return shown


def given_weights(
    made: MatchingObjective, batch: Pairs, momentum: Pairs, *, warming_up: bool
) -> tuple[list[list[list[int]]], dict[str, Tensor]]:
    """Where the weights are above 0 that the loss over all candidates is given, and what is logged."""
    shown, loss = [], made._loss

    def watched(*parts: Any) -> Tensor:
        shown.append((parts[0].weights_BC > 0).int().tolist())
        return loss(*parts)

    made._loss = watched  # type: ignore[method-assign, assignment]
    _, logged = loss_of(made, batch, momentum, warming_up=warming_up)
    return shown, logged


def remembered(image_id: list[int], size: int) -> Memory:
    memory = Memory(size, WIDTH)
    memory.enqueue(*pairs(image_id, seed=7))
    return memory


def test_unfilled_slots_and_known_positives_are_never_offered() -> None:
    memory = remembered([1, 9, 9], size=5)
    for weights_bC in shown_weights(objective(memory), pairs([1, 2, 1], 0), pairs([1, 2, 1], 1)):
        assert (weights_bC > 0).tolist() == [
            [False, True, False, False, True, True, False, False],
            [True, False, True, True, True, True, False, False],
            [False, True, False, False, True, True, False, False],
        ]


def test_by_the_diagonal_another_caption_of_the_image_is_a_negative_where_the_batch_is_all() -> None:
    batch = pairs([1, 2, 1], 0)
    for known, expected in (
        ("identity", [[0, 1, 0], [1, 0, 1], [0, 1, 0]]),
        ("diagonal", [[0, 1, 1], [1, 0, 1], [1, 1, 0]]),
    ):
        for weights_bC in shown_weights(objective(known_positives=known), batch):
            assert (weights_bC > 0).int().tolist() == expected


def test_with_a_memory_the_published_code_goes_by_identity_too() -> None:
    memory = remembered([1, 9], size=2)
    shown = shown_weights(objective(memory, known_positives="diagonal"), pairs([1, 2, 1], 0), pairs([1, 2, 1], 1))
    assert (shown[0] > 0).int().tolist() == [[0, 1, 0, 0, 1], [1, 0, 1, 1, 1], [0, 1, 0, 0, 1]]


def test_warming_up_offers_the_batchs_hardest_and_leaves_the_memory_out() -> None:
    batch = pairs([1, 2, 3], 0)
    shown = shown_weights(objective(remembered([9], size=2)), batch, pairs([1, 2, 3], 1), warming_up=True)
    similarity_BB = (batch.image @ batch.text.T).fill_diagonal_(-2)
    assert torch.equal(shown[0], torch.nn.functional.one_hot(similarity_BB.argmax(dim=1), 3).float())
    assert torch.equal(shown[1], torch.nn.functional.one_hot(similarity_BB.argmax(dim=0), 3).float())


def test_both_directions_are_summed_an_anchor() -> None:
    batch, momentum, memory = pairs([1, 2, 3], 0), pairs([1, 2, 3], 1), remembered([8, 9], size=2)
    loss_b, _ = loss_of(objective(memory, strategy="hardest"), batch, momentum)
    slow = []
    for b in range(3):
        total = 0.0
        for anchor, other, stored in (
            (batch.image[b], momentum.text, memory.text),
            (batch.text[b], momentum.image, memory.image),
        ):
            candidates = [float(anchor @ other[c]) for c in range(3) if c != b] + (stored @ anchor).tolist()
            total += max(0.0, PARAMS.loss.margin + max(candidates) - float(anchor @ other[b]))
        slow.append(total)
    assert loss_b.tolist() == pytest.approx(slow, abs=1e-6)


def test_the_memory_is_no_part_of_the_gradient_and_the_batch_alone_is_on_both_sides() -> None:
    batch, momentum = pairs([1, 2, 3], 0, gradient=True), pairs([1, 2, 3], 1)
    memory = remembered([8, 9], size=2)
    loss_b, _ = loss_of(objective(memory, strategy="all", loss="infonce"), batch, momentum)
    loss_b.sum().backward()
    with_memory = batch.image.grad
    assert with_memory is not None
    candidate_CD = torch.cat([momentum.text, memory.text])
    for b in range(3):  # one anchor's own gradient: nothing comes from other anchors' terms
        logits = candidate_CD @ batch.image[b] / TEMPERATURE
        share = logits.detach().softmax(0)
        expected = (share @ candidate_CD - momentum.text[b]) / TEMPERATURE / 2  # the mean of both directions
        torch.testing.assert_close(with_memory[b], expected, rtol=1e-4, atol=1e-5)

    alone = pairs([1, 2, 3], 0, gradient=True)
    loss_of(objective(strategy="all", loss="infonce"), alone)[0][0].backward()
    assert alone.text.grad is not None
    assert bool((alone.text.grad.abs().sum(dim=1) > 0).all())  # the first anchor pushes the others' captions


def test_the_triplet_loss_over_all_is_the_mean_violation() -> None:
    batch = pairs([1, 2, 3, 4], 0)
    loss_b, _ = loss_of(objective(strategy="all"), batch)
    similarity_BB, others_BB = batch.image @ batch.text.T, 1 - torch.eye(4)
    own_B, margin = similarity_BB.diagonal(), PARAMS.loss.margin
    torch.testing.assert_close(
        loss_b,
        mean_violation_loss(similarity_BB, own_B, others_BB, margin)
        + mean_violation_loss(similarity_BB.T, own_B, others_BB, margin),
    )


@pytest.mark.parametrize("strategy", ["fne", "random", "hardest"])
def test_a_process_draws_for_its_part_what_one_process_draws_for_the_whole(strategy: str) -> None:
    batch, momentum, memory = (
        pairs([1, 2, 3, 4, 5, 6, 7], 0),
        pairs([1, 2, 3, 4, 5, 6, 7], 1),
        remembered([8, 9], size=4),
    )
    draws = uniform(3, 4, 7)
    whole_b, _ = objective(memory, strategy=strategy)(batch, batch, momentum, 0, draws, TEMPERATURE, warming_up=False)
    parts = []
    for rows in (slice(0, 4), slice(4, 7)):
        own = Pairs(*(part[rows] for part in batch))
        made = objective(memory, strategy=strategy)
        parts.append(made(own, batch, momentum, rows.start, draws[:, rows], TEMPERATURE, warming_up=False)[0])
    torch.testing.assert_close(torch.cat(parts), whole_b)


def test_the_statistics_see_the_batch_before_it_is_sampled_and_in_warm_up_too() -> None:
    text = torch.eye(3, WIDTH)
    batch = Pairs(text, text, torch.arange(3), torch.arange(3))
    made = objective()
    loss_of(made, batch, warming_up=True)
    assert int(made.statistics.positive.count) == 3
    counts: list[int] = []

    def draw(weights_bC: Tensor, uniform_b: Tensor) -> Tensor:
        counts.append(int(made.statistics.positive.count))
        return weights_bC.argmax(dim=1)

    made.draw = draw
    loss_of(made, batch)
    assert counts == [6, 6]


def test_by_identity_the_statistics_leave_other_captions_of_an_image_out() -> None:
    text = torch.eye(3, WIDTH)
    image = text[[0, 0, 2]]
    batch = Pairs(image, text, torch.tensor([5, 5, 6]), torch.arange(3))
    found = {}
    for known in ("identity", "diagonal"):
        made = objective(known_positives=known)
        loss_of(made, batch)
        found[known] = int(made.statistics.positive.count)
    assert found == {"identity": 2, "diagonal": 1}


def test_the_share_of_sampled_weight_on_true_matches_is_logged() -> None:
    truth_NM = torch.zeros(4, 4, dtype=torch.bool)
    truth_NM[torch.arange(4), torch.arange(4)] = True
    truth_NM[0, 1] = True  # caption 1 is true of image 0 too
    batch = Pairs(features(2, 1), features(2, 2), torch.tensor([0, 1]), torch.tensor([0, 1]))
    _, logged = loss_of(objective(strategy="all", truth_NM=truth_NM), batch)
    # true: caption 1 for image 0, and image 0 for caption 1; not true: caption 0 for image 1, and image 1 for caption 0
    assert logged["sampler/false_negative_share"].item() == pytest.approx(0.5)
    _, unknown = loss_of(objective(strategy="all"), batch)
    assert bool(unknown["sampler/false_negative_share"].isnan())


def test_a_random_slot_of_the_memory_is_no_true_match() -> None:
    """It holds neither a caption nor an image; caption 0 and image 0 are true of everything here."""
    truth_NM = torch.zeros(4, 4, dtype=torch.bool)
    truth_NM[0], truth_NM[:, 0] = True, True
    batch = Pairs(features(2, 1), features(2, 2), torch.tensor([1, 2]), torch.tensor([1, 2]))
    memory = Memory(5, WIDTH, "random")
    _, logged = loss_of(objective(memory, strategy="all", truth_NM=truth_NM), batch, batch)
    assert logged["sampler/false_negative_share"].item() == 0


def test_the_drawn_candidate_is_the_one_the_hinge_is_on() -> None:
    batch = pairs([1, 2, 3], 0)
    made = objective()
    made.draw = lambda weights_bC, uniform_b: torch.tensor([2, 0, 1])
    loss_b, _ = loss_of(made, batch)
    similarity_BB = batch.image @ batch.text.T
    own_B, drawn_B = similarity_BB.diagonal(), torch.tensor([2, 0, 1])
    expected_b = triplet_loss(similarity_BB, own_B, drawn_B, 0.2) + triplet_loss(similarity_BB.T, own_B, drawn_B, 0.2)
    torch.testing.assert_close(loss_b, expected_b)


@pytest.mark.parametrize("strategy", ["fne", "random"])
def test_each_direction_draws_by_its_own_numbers(strategy: str) -> None:
    batch, draws = pairs(list(range(8)), 0), uniform(3, 4, 8)
    shown: list[Tensor] = []
    numbers: list[Tensor] = []

    def draw(weights_bC: Tensor, uniform_b: Tensor) -> Tensor:
        shown.append(weights_bC)
        numbers.append(uniform_b)
        return weights_bC.argmax(dim=1)

    made = objective(strategy=strategy)
    made.draw = draw
    made(batch, batch, None, 0, draws, TEMPERATURE, warming_up=False)
    assert torch.equal(torch.stack(numbers), draws)
    if strategy == "random":
        own_BB = torch.eye(8, dtype=torch.bool)
        assert torch.equal(torch.stack(shown), torch.stack([random_weights(own_BB, draw_B) for draw_B in draws]))


def test_each_share_is_logged_under_its_own_name() -> None:
    text = features(6, 1)
    batch = Pairs(normalize(text + 1.2 * features(6, 2), dim=1), text, torch.arange(6), torch.arange(6))
    made = objective(min_matches=0, cutdown=0.5, suspect=0.02, prior=3)
    _, logged = loss_of(made, batch)
    positive, negative = (
        torch.distributions.Normal(part.mean, part.variance.sqrt())
        for part in (made.statistics.positive, made.statistics.negative)
    )
    others = ~torch.eye(6, dtype=torch.bool)
    similarity_O = (batch.image @ batch.text.T)[others].double()  # of the thirty unpaired ones
    odds_O = (positive.log_prob(similarity_O) - negative.log_prob(similarity_O)).exp() / 2
    expected = {
        "sampler/cut_down_share": (similarity_O <= positive.mean - 0.5).double().mean().item(),
        "sampler/suspected_share": (odds_O / (1 + odds_O) > 0.02).double().mean().item(),
        "similarity/collapse": max((side @ side.T)[others].mean().item() for side in (batch.image, batch.text)),
    }
    assert {name: logged[name].item() for name in expected} == pytest.approx(expected, abs=1e-6)
    assert len({0, 1, *expected.values()}) == 5, "none can be confused with another"


@pytest.mark.parametrize("warming_up", [False, True])
@pytest.mark.parametrize("strategy", ["fne", "all"])
def test_evidence_drops_a_candidate_by_its_ids_in_both_directions(strategy: str, warming_up: bool) -> None:
    """Images 0, 1, 2 with captions 100, 101, 102 in the batch; 5 and 6 with captions 100 and 101 in the memory."""
    image_P, caption_P = torch.tensor([0, 1, 2]), torch.tensor([101, 102, 101])
    evidence = ListedPosterior(image_P, caption_P, torch.tensor([0.9, 0.1, 0.9]), 7, 110)
    memory, batch = remembered([5, 6], size=3), pairs([0, 1, 2], seed=1)
    made = objective(
        memory, warmup="infonce", loss="infonce", strategy=strategy, drop=0.5, posterior="evidence", evidence=evidence
    )
    (to_text_bC, to_image_bC), logged = given_weights(made, batch, pairs([0, 1, 2], seed=2), warming_up=warming_up)
    if warming_up:
        assert to_text_bC == [[0, 0, 1], [1, 0, 1], [1, 0, 0]]
        assert to_image_bC == [[0, 1, 1], [0, 0, 0], [1, 1, 0]]
    else:  # the third slot of the memory is not written
        assert to_text_bC == [[0, 0, 1, 1, 0, 0], [1, 0, 1, 1, 1, 0], [1, 0, 0, 1, 0, 0]]
        assert to_image_bC == [[0, 1, 1, 1, 1, 0], [0, 0, 0, 1, 1, 0], [1, 1, 0, 1, 1, 0]]
    assert logged["sampler/dropped_share"] > 0


@pytest.mark.parametrize("warming_up", [False, True])
def test_a_judged_match_is_never_a_negative_whatever_the_sampler_drops(warming_up: bool) -> None:
    made = objective(remembered([5, 6], size=3), warmup="infonce", loss="infonce", strategy="all", drop=None)
    made.matches = ListedPosterior(torch.tensor([0, 2]), torch.tensor([101, 100]), torch.ones(2), 7, 110)
    shown, _ = given_weights(made, pairs([0, 1, 2], seed=1), pairs([0, 1, 2], seed=2), warming_up=warming_up)
    to_text, to_image = ([row[:3] for row in weights] for weights in shown)
    assert to_text == [[0, 0, 1], [1, 0, 1], [0, 1, 0]]
    assert to_image == [[0, 1, 0], [0, 0, 1], [1, 1, 0]]
    if not warming_up:  # caption 101 of the memory is the same caption
        assert [row[3:] for row in shown[0]] == [[1, 0, 0], [1, 1, 0], [0, 1, 0]]


def test_a_judged_match_is_a_positive_where_targets_name_known_positives() -> None:
    found = {}
    for targets in ("own", "same_image"):
        made = objective(warmup="infonce", loss="infonce", strategy="all", drop=None, targets=targets)
        made.matches = ListedPosterior(torch.tensor([0]), torch.tensor([101]), torch.ones(1), 7, 110)
        found[targets], _ = loss_of(made, pairs([0, 1, 2], seed=1))
    assert found["same_image"][2] == found["own"][2], "nothing was judged of the third pair"
    assert (found["same_image"][:2] != found["own"][:2]).all()
