"""Numbers go wrong: a training goes on correctly, or stops with the reason and its last good checkpoint."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.data.splits.truth_file import read_truth
from pipeline.errors import InputError
from pipeline.features.inputs import Batch
from pipeline.params import load_params
from pipeline.sampling.posterior import false_negative_posterior
from pipeline.sampling.statistics import SimilarityStatistics
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.health import check_finite, collapse_warning, means_of
from pipeline.training.loop import Training
from pipeline.training.objective import MatchingObjective, Pairs, collapse
from pipeline.training.setup import open_training
from tests.stages.running import STAGES, finite, invoke, run, work_in, write_tiny_params

STRATEGIES = ("fne", "hardest", "semi_hard", "random", "all")


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every stage before training has run, for heads over frozen features."""
    folder = tmp_path_factory.mktemp("ready")
    with pytest.MonkeyPatch.context() as monkeypatch:
        work_in(folder, monkeypatch)
        write_tiny_params(folder, model__train="heads")
        run("download", "split", "base", "features")
    return folder


def open_run(ready: Path, folder: Path, **changes: Any) -> Training:
    folder.mkdir(exist_ok=True)
    write_tiny_params(folder, model__train="heads", train__epochs=2, **changes)
    parts = (ready / "features", ready / "data/split", ready / "models/base")
    truth = read_truth(ready / "data/split", "train")
    checkpoint = Checkpoint(folder)
    return open_training(load_params(folder / "params.yaml"), *parts, truth, checkpoint, lambda history: None)[0]


def weights(training: Training) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in training.model.state_dict().items()}


def after_epoch(training: Training, epoch: int, poison: Any) -> None:
    """Have `poison` called before the first step of an epoch."""
    step = training.step

    def poisoned(batch: Batch, **options: Any) -> dict[str, Tensor]:
        if training.at.epoch == epoch and training.at.batch == 0:
            poison()
        return step(batch, **options)

    training.step = poisoned  # type: ignore[method-assign]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_weight_that_is_no_number_stops_with_the_last_good_checkpoint(
    value: float, ready: Path, tmp_path: Path
) -> None:
    whole = open_run(ready, tmp_path / "whole")
    whole.run()
    training = open_run(ready, tmp_path / "poisoned")

    def poison() -> None:
        with torch.no_grad():
            next(training.model.image_head.parameters()).fill_(value)

    after_epoch(training, 1, poison)
    with pytest.raises(
        InputError, match=r"loss is nan at epoch 1, step \d+: training cannot continue.*last checkpoint"
    ):
        training.run()
    again = open_run(ready, tmp_path / "poisoned")
    assert again.resume()
    assert (again.at.epoch, again.at.batch) == (1, 0)
    again.run()
    for name, tensor in weights(whole).items():
        assert torch.equal(again.model.state_dict()[name], tensor), "once the cause is gone, it is the same run"


def test_a_gradient_that_is_no_number_stops_before_it_is_in_a_checkpoint(ready: Path, tmp_path: Path) -> None:
    """The loss of the step is still finite; the weights after it are not."""
    training = open_run(ready, tmp_path / "poisoned", train__batch_size=60)
    parameter = next(training.model.image_head.parameters())
    after_epoch(training, 1, lambda: parameter.register_hook(lambda gradient: gradient * math.nan))
    with pytest.raises(InputError, match=r"the loss was finite, but a weight is not at epoch 1, step 2"):
        training.run()
    state = training.checkpoint.load()
    assert state is not None
    assert json.loads(state["progress"])["epoch"] == 1
    assert all(tensor.isfinite().all() for tensor in state["model"].values())
    best = training.checkpoint.load("best")
    assert best is not None
    assert all(tensor.isfinite().all() for tensor in best["model"].values())


def test_the_command_says_so_in_one_line_and_the_run_has_failed(
    ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    shutil.copytree(ready, tmp_path / "clone")
    folder = work_in(tmp_path / "clone", monkeypatch)
    write_tiny_params(folder, model__train="heads", train__lr=1e30, train__epochs=3)
    run("bank")
    result = invoke("train")
    assert result.exit_code == 1
    (error,) = [line for line in result.output.splitlines() if line.startswith("error: ")]
    assert "training cannot continue" in error
    assert not (folder / "train/run.json").exists()


def test_a_loss_that_is_finite_passes() -> None:
    check_finite(1.0, torch.nn.Linear(2, 2), 0, 1)


def test_one_image_among_others_says_nothing_of_collapse_and_hides_none() -> None:
    def logged(loss: float, **metrics: float) -> dict[str, Tensor]:
        return {name: torch.tensor(value) for name, value in {"train/loss": loss, **metrics}.items()}

    steps = [logged(1.0, share=0.5, collapse=math.nan), logged(3.0, share=0.25, collapse=0.75)]
    assert means_of(steps) == {"train/loss": 2.0, "share": 0.375, "collapse": 0.75}
    assert means_of(steps[:1]) == {"train/loss": 1.0, "share": 0.5}, "what no step knows is not logged"
    assert math.isnan(means_of([logged(math.nan), logged(1.0)])["train/loss"]), "a loss is never hidden"


def test_collapse_is_the_mean_similarity_of_different_images() -> None:
    torch.manual_seed(0)
    image, text = (torch.nn.functional.normalize(torch.randn(7, 5), dim=1) for _ in range(2))
    ids = torch.tensor([0, 1, 1, 2, 3, 3, 3])
    expected = max(
        sum(float(part[i] @ part[j]) for i, j in pairs) / len(pairs)
        for part in (image, text)
        for pairs in [[(i, j) for i in range(7) for j in range(7) if ids[i] != ids[j]]]
    )
    same = ids[:, None] == ids[None, :]
    assert float(collapse(image, text, same)) == pytest.approx(expected, abs=1e-6)
    assert float(collapse(image[:1].expand(7, -1), text, same)) == pytest.approx(1)
    assert math.isnan(collapse(image, text, torch.ones(7, 7, dtype=torch.bool)))


def test_a_collapse_is_told_once_and_early(ready: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    training = open_run(ready, tmp_path / "run", train__batch_size=16)
    with torch.no_grad():  # a bias beside which no image matters
        for name, parameter in training.model.image_head.named_parameters():
            parameter.fill_(1000.0) if "bias" in name else parameter.mul_(1e-6)
    training.run()
    said = capfd.readouterr().err
    assert said.count("warning: the towers collapse") == 1
    assert "in epoch 1 (similarity/collapse" in said
    assert training.at.history[0]["similarity/collapse"] > 0.99


@pytest.mark.parametrize(("value", "warned"), [(0.989, False), (0.991, True), (math.nan, False)])
def test_what_counts_as_a_collapse(value: float, warned: bool) -> None:
    assert (collapse_warning(value, 0) is not None) == warned


def test_equal_similarities_have_no_variance_and_a_posterior_all_the_same() -> None:
    statistics = SimilarityStatistics()
    for _ in range(3):
        statistics.update(torch.eye(4) * 0.5)
    assert float(statistics.positive.variance) == float(statistics.negative.variance) == 0
    posterior = false_negative_posterior(
        torch.linspace(-1, 1, 41), statistics.positive, statistics.negative, prior=10_000
    )
    assert posterior.isfinite().all()
    assert ((posterior >= 0) & (posterior <= 1)).all()


def unit(*rows: list[float]) -> Tensor:
    return torch.nn.functional.normalize(torch.tensor(rows), dim=1)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("loss", ["triplet", "infonce"])
@pytest.mark.parametrize("case", ["nothing matches", "all cut down", "one image", "one pair", "all the same"])
def test_a_batch_that_teaches_little_gives_a_finite_loss(case: str, loss: str, strategy: str, tmp_path: Path) -> None:
    write_tiny_params(
        tmp_path, sampler__strategy=strategy, sampler__cutdown=0.0, sampler__min_matches=0, loss__name=loss
    )
    params = load_params(tmp_path / "params.yaml")
    image, text = unit([1.0, 0.0], [0.0, 1.0], [1.0, 1.0]), unit([0.0, 1.0], [1.0, 0.0], [-1.0, 0.5])
    ids = torch.arange(3)
    if case == "all cut down":
        text = image.clone()
    elif case == "one image":
        ids = torch.zeros(3, dtype=torch.long)
    elif case == "one pair":
        image, text, ids = image[:1], text[:1], ids[:1]
    elif case == "all the same":
        image = text = image[:1].expand(3, -1)
    image, text = image.clone().requires_grad_(), text.clone().requires_grad_()
    pairs = Pairs(image, text, ids, torch.arange(len(ids)))
    objective = MatchingObjective(params.sampler, params.loss, "triplet", SimilarityStatistics(), None)
    draws = torch.full((2, len(ids)), 0.5)
    for warming_up in (True, False):
        loss_b, logged = objective(pairs, pairs, None, 0, draws, 0.05, warming_up=warming_up)
        loss_b.sum().backward()
        assert loss_b.isfinite().all()
        assert image.grad is not None
        assert image.grad.isfinite().all()
        assert not logged["sampler/cut_down_share"].isnan()
        if case in ("one image", "one pair"):
            assert not loss_b.any(), "nothing to be pushed from, nothing learnt"


@pytest.mark.parametrize(
    "changes",
    [
        {"memory__size": 3, "train__batch_size": 16},
        {"train__batch_size": 1},
        {"train__batch_size": 59},  # the last batch of the epoch is one pair
        {"sampler__cutdown": 0.0, "sampler__min_matches": 0},
    ],
    ids=["a memory smaller than the batch", "a batch of one", "a last batch of one", "no cut-down, no patience"],
)
@pytest.mark.parametrize("strategy", ["fne", "all"])
def test_a_training_with_unusual_sizes_ends_with_finite_weights(
    changes: dict[str, Any], strategy: str, ready: Path, tmp_path: Path
) -> None:
    training = open_run(ready, tmp_path / "run", sampler__strategy=strategy, **changes)
    training.run()
    assert training.at.epoch == 2
    assert all(tensor.isfinite().all() for tensor in weights(training).values())
    assert all(math.isfinite(row["train/loss"]) for row in training.at.history)


@pytest.mark.parametrize("train", ["towers", "heads"])
def test_splits_of_one_image_go_through_every_stage(
    train: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = work_in(tmp_path / "clone", monkeypatch)
    one = {"data__scenes__train": 1, "data__scenes__val": 1, "data__scenes__test": 1, "model__train": train}
    write_tiny_params(folder, **one, evaluate__folds=1)
    run(*STAGES)
    metrics = json.loads(Path("metrics.json").read_text())
    assert finite(metrics["test"]["i2t"])
    assert metrics["test"]["i2t"]["R1"] == metrics["test"]["t2i"]["R1"] == 100
    with open("train/history.csv") as handle:
        assert all(math.isfinite(float(row["train/loss"])) for row in csv.DictReader(handle))
