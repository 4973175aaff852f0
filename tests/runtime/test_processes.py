"""Two processes see the batch that one sees: the same losses and the same weights."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, multiprocessing, nn

from pipeline.bank.scoring import learn_before_scoring
from pipeline.bank.table import Bank
from pipeline.evidence import listed
from pipeline.evidence.listed import listed_pairs
from pipeline.features.inputs import Batch, Entries, Inputs
from pipeline.models.towers import MatchingModel
from pipeline.params import Params, parse_params
from pipeline.runtime.processes import gather_uneven, local_span, process_index, wait_for_all
from pipeline.training import setup
from pipeline.training.accumulation import window_of
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.health import means_of
from pipeline.training.impact import NegativeImpact
from pipeline.training.loop import Training
from pipeline.training.setup import learn_bias
from pipeline.training.trust import LearnedTrust
from stages.launch import atomic_folder_of_all
from tests.evidence.test_listed import fitted, split_evidence
from tests.paper import paper_content
from tests.stages.running import free_port
from tests.training.making import frozen_pairs, linear_heads, params_with, tiny_training
from tests.training.test_resume import Clock, assert_same, everything, run_until

pytestmark = pytest.mark.whole
IMAGES, TEXTS, WIDTH, STEPS, BATCH = 12, 30, 6, 5, 7  # 7 does not divide by 2
ENTRIES = np.random.default_rng(1).integers(TEXTS, size=(2, TEXTS))
Changes = dict[str, dict[str, object]]
TRIPLET: Changes = {"loss": {"name": "triplet"}, "sampler": {"min_matches": 0}}
INFONCE: Changes = {"loss": {"name": "infonce", "temperature": "learned"}, "sampler": {"strategy": "all"}}
NPC: Changes = INFONCE | {"memory": {"size": 0}, "pairs": {"weighting": "npc"}, "train": {"epochs": 2, "lr": 0.001}}
METHODS: dict[str, Changes] = {
    "FNE": TRIPLET | {"memory": {"size": 16}},
    "hardest in the batch": TRIPLET | {"memory": {"size": 0}, "sampler": {"strategy": "hardest"}},
    "random": TRIPLET | {"memory": {"size": 5}, "sampler": {"strategy": "random"}},
    "CLIP, after a triplet warm-up": INFONCE | {"memory": {"size": 0}},
    "FNE, two batches a step": TRIPLET | {"memory": {"size": 16}, "train": {"accumulate": 2}},
    "GloFND": {**INFONCE, "sampler": {"strategy": "glofnd", "false_share": 0.2}, "memory": {"size": 16}},
    "ALBEF": INFONCE | {"targets": {"name": "albef"}, "memory": {"size": 16}},
    "Sinkhorn": INFONCE | {"targets": {"name": "sinkhorn"}, "memory": {"size": 0}},
    "SigLIP, after a triplet warm-up": INFONCE | {"loss": {"name": "sigmoid"}, "memory": {"size": 0}},
    "CRCL": INFONCE | {"memory": {"size": 0}, "pairs": {"weighting": "crcl"}},
    "NPC": NPC,
    "NPC, as published": NPC | {"pairs": {"weighting": "npc", "reweigh": "batch", "siamese_gradient": 2.0}},
}

SHORT = {"train__epochs": 3, "train__lr": 0.01, "memory__size": 7, "sampler__min_matches": 4}
LAST_OF_ONE = SHORT | {"train__batch_size": 11, "pairs__bank_epochs": 2, "pairs__batch_size": 11, "pairs__bank_lr": 0.1}
"""Of twelve pairs the last batch has one."""
PAIR_WEIGHTS = {"pairs__weighting": "npc", "loss__name": "infonce"}
RUNS: dict[str, dict[str, Any]] = {
    "a last batch of one pair": LAST_OF_ONE,
    "in the batch, a last batch of one pair": LAST_OF_ONE | {"memory__size": 0, "loss__name": "infonce"},
    "NPC, a last batch of one pair": LAST_OF_ONE | PAIR_WEIGHTS,
    "NPC, as published, a last batch of one pair": LAST_OF_ONE | PAIR_WEIGHTS | {"pairs__reweigh": "batch"},
    "batches of one pair": SHORT | {"train__batch_size": 1},
    "batches of five pairs, of which one process has two, a part, and one three": SHORT
    | {"train__batch_size": 5, "train__part": 2},
}


def small_params(changes: Changes) -> Params:
    """The repository's parameters with another method."""
    content = paper_content()
    for section, values in changes.items():
        content[section] |= values
    return parse_params(content)


def trained(params: Params) -> dict[str, Tensor]:
    """What the history says of a few steps on fixed features, and the weights after them."""
    from accelerate import Accelerator

    torch.manual_seed(0)
    images, texts = torch.randn(IMAGES, 8), torch.randn(TEXTS, 8)
    caption_image = torch.arange(TEXTS) % IMAGES
    model = MatchingModel(nn.Identity(), nn.Identity(), nn.Linear(8, WIDTH), nn.Linear(8, WIDTH), width=WIDTH)
    if params.loss.temperature == "learned":
        model.logit_scale = nn.Parameter(torch.tensor(2.0))
    impact = None
    if params.pairs.weighting == "npc":
        impact = NegativeImpact(model, params, Bank(ENTRIES[0], ENTRIES[1], np.ones(TEXTS)), None, {})
    learned = None
    if params.pairs.weighting == "crcl":
        learned = LearnedTrust("crcl", TEXTS, 1, None, torch.device("cpu"))
    learn_bias(model, params.loss)
    inputs = cast(Inputs, SimpleNamespace(names=range(IMAGES), caption_image=caption_image))
    checkpoint = cast(Checkpoint, None)
    training = Training(
        params, model, inputs, inputs, Accelerator(cpu=True), checkpoint, impact=impact, learned=learned
    )
    history = []
    for step in range(STEPS):
        order = torch.randperm(TEXTS, generator=torch.Generator().manual_seed(step))[:BATCH]
        span = local_span(BATCH)
        captions = order[span.start : span.stop]
        own = caption_image[captions]
        entries = None
        if impact is not None and step:
            chosen = torch.from_numpy(np.concatenate([ENTRIES[0][captions], ENTRIES[1][captions]]))
            entries = Entries(images[caption_image[chosen]], texts[chosen], caption_image[chosen])
        batch = Batch(images[own], texts[captions], own, captions, span.start, BATCH, entries)
        window = window_of(step, STEPS, params.train.accumulate)
        logged = training.step(batch, warming_up=step == 0, window=window)
        training.at.step += 1
        history.append(means_of([logged]))
    weights = {name: value.detach().clone() for name, value in training.model.state_dict().items()}
    if training.thresholds is not None:
        weights |= {f"thresholds {side}": part.value_N for side, part in enumerate(training.thresholds)}
    if impact is not None:
        weights |= {"weight of each pair": impact.weight_M.nan_to_num(), "ratio": impact.ratio_M.nan_to_num()}
    if learned is not None:
        weights |= {"label of each pair": learned.label_M, "loss": learned.loss_M.nan_to_num()}
    rows = {name: torch.tensor([row.get(name, torch.nan) for row in history]) for name in history[-1]}
    return weights | {f"logged {name}": row_S for name, row_S in rows.items()}


def trained_for_epochs(changes: dict[str, Any], folder: Path) -> dict[str, Tensor]:
    """What a whole training of twelve pairs leaves behind."""
    params = params_with(**changes)
    torch.manual_seed(params.seed)
    inputs = frozen_pairs(folder / f"inputs of {process_index()}")
    training = tiny_training(folder, params, linear_heads(), inputs)
    at = training.run()
    losses = torch.tensor([[row["step"], row["train/loss"], row.get("val/rsum", torch.nan)] for row in at.history])
    return training.model.state_dict() | {"step, loss, validation": losses}


def ends_with_dropout(folder: Path) -> dict[str, Any]:
    """Where a training ends in one go, and where it ends after two kills; of three pairs, one process has two."""
    ends = {}
    for name, kills in (("in one go", ()), ("killed", (5, 7))):
        for last_step in (*kills, None):
            wait_for_all()  # for the first one's checkpoint
            params, clock = params_with(**SHORT, train__batch_size=3), Clock()
            torch.manual_seed(params.seed)
            inputs = frozen_pairs(folder / f"inputs of {process_index()}")
            training = tiny_training(folder / name, params, linear_heads(dropout=0.3), inputs, clock)
            training.resume()
            run_until(training, clock, last_step, minutes_a_step=1.0)
        ends[name] = everything(training) | {"generator": None}
    return ends


def left_out(folder: Path, learn: Callable[[MatchingModel, Inputs], object]) -> list[Tensor]:
    """Which places dropout leaves out in each process, the batches being shared evenly."""
    torch.manual_seed(0)
    model = linear_heads(dropout=0.3)
    zeros: list[Tensor] = []

    def watch(dropout: nn.Module, _: object, found: Tensor) -> None:
        if dropout.training:
            zeros.append((found == 0).int())

    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.register_forward_hook(watch)
    learn(model, frozen_pairs(folder / f"inputs of {process_index()}"))
    return list(gather_uneven(torch.cat(zeros)).chunk(2))


def learned_for_the_bank(folder: Path) -> dict[str, Tensor]:
    """The weights with which the bank's pairs are scored."""
    torch.manual_seed(0)
    model = linear_heads()
    learn_before_scoring(model, frozen_pairs(folder / f"inputs of {process_index()}"), params_with(**LAST_OF_ONE).pairs)
    return model.state_dict()


def one_of_two(rank: int, port: int, folder: str) -> None:
    """What each of two gloo processes runs: every method, after one start."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    # the first one waits for the lock of the same experiment, longer than torch would by itself
    torch.distributed.distributed_c10d.default_pg_timeout = timedelta(seconds=0.1)
    setup.LONGEST_WAIT = timedelta(minutes=3)  # not a day: a defect must end the test
    time.sleep(2 - 2 * rank)
    setup.open_accelerator("no")
    answers: dict[str, dict[str, Any]] = {name: trained(small_params(changes)) for name, changes in METHODS.items()}
    answers |= {name: trained_for_epochs(changes, Path(folder) / name) for name, changes in RUNS.items()}
    answers["bank"] = learned_for_the_bank(Path(folder))
    answers["dropout"] = ends_with_dropout(Path(folder) / "dropout")
    params = params_with(**SHORT, train__batch_size=4, pairs__bank_epochs=2, pairs__batch_size=4)
    answers["left out"] = {
        "train": left_out(Path(folder), lambda model, on: tiny_training(Path(folder), params, model, on).run()),
        "bank": left_out(Path(folder), lambda model, on: learn_before_scoring(model, on, params.pairs)),
    }
    rows = torch.full((3 - 2 * rank, 2), rank, dtype=torch.int32)  # three of the first process, one of the second
    answers["uneven"] = {"rows": gather_uneven(rows), "none": gather_uneven(rows[: 3 * rank])}
    listed.BLOCK_PAIRS, listed.BLOCK_CAPTIONS = 10, 5  # two images and half of the captions a block
    evidence = split_evidence(1)
    answers["listed"] = listed_pairs(evidence, fitted(evidence))
    with atomic_folder_of_all(Path(folder) / "together") as together:
        time.sleep(rank)  # the second one is late
        (together / str(rank)).write_text("")
    if rank == 0:
        answers["together"] = {path.name: None for path in (Path(folder) / "together").iterdir()}
        torch.save(answers, Path(folder) / "answers.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Losses and weights of each method, trained by two processes."""
    folder = tmp_path_factory.mktemp("two")
    multiprocessing.spawn(one_of_two, (free_port(), str(folder)), nprocs=2)
    answers: dict[str, dict[str, Any]] = torch.load(folder / "answers.pt", weights_only=True)
    return answers


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_train_like_one(method: str, of_two: dict[str, dict[str, Tensor]]) -> None:
    of_one = trained(small_params(METHODS[method]))
    assert of_one.keys() == of_two[method].keys()
    for name, value in of_one.items():
        apart = 1e-2 if name.endswith("_share") else 1e-6  # a share of all candidates is not the mean of two shares
        torch.testing.assert_close(of_two[method][name], value, rtol=1e-4, atol=apart, equal_nan=True, msg=name)


@pytest.mark.parametrize("run", RUNS)
def test_two_processes_train_like_one_where_a_batch_has_no_row_for_one_of_them(
    run: str, of_two: dict[str, dict[str, Tensor]], tmp_path: Path
) -> None:
    of_one = trained_for_epochs(RUNS[run], tmp_path)
    torch.testing.assert_close(of_two[run], of_one, rtol=1e-4, atol=1e-6, equal_nan=True)


def test_two_processes_learn_before_scoring_like_one(of_two: dict[str, dict[str, Tensor]], tmp_path: Path) -> None:
    torch.testing.assert_close(of_two["bank"], learned_for_the_bank(tmp_path), rtol=1e-4, atol=1e-6)


def test_two_processes_with_dropout_end_with_the_same_bits_after_two_kills(of_two: dict[str, Any]) -> None:
    assert of_two["dropout"]["killed"]["progress"]["step"] == 12
    assert_same(of_two["dropout"]["killed"], of_two["dropout"]["in one go"])


@pytest.mark.parametrize("stage", ["train", "bank"])
def test_each_process_leaves_out_other_places(stage: str, of_two: dict[str, Any]) -> None:
    first, second = of_two["left out"][stage]
    assert first.shape == second.shape and first.any()
    assert float((first == second).float().mean()) < 0.8, "of two draws with probability 0.3, 0.58 agree"


def test_rows_of_any_number_are_gathered(of_two: dict[str, dict[str, Tensor]]) -> None:
    assert of_two["uneven"]["rows"].tolist() == [[0, 0]] * 3 + [[1, 1]]
    assert of_two["uneven"]["none"].tolist() == [[1, 1]]


def test_a_folder_of_all_is_there_when_the_last_has_written(of_two: dict[str, Any]) -> None:
    assert sorted(of_two["together"]) == ["0", "1"]


def test_two_processes_list_what_one_lists(of_two: dict[str, dict[str, Tensor]]) -> None:
    evidence = split_evidence(1)
    of_one = listed_pairs(evidence, fitted(evidence))
    assert len(of_one["image_P"]) > 0
    assert all(torch.equal(of_two["listed"][name], part_P) for name, part_P in of_one.items())
