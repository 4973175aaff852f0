"""Two processes see the batch that one sees: the same losses and the same weights."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, multiprocessing, nn

from pipeline.bank.table import Bank
from pipeline.evidence import listed
from pipeline.evidence.listed import listed_pairs
from pipeline.features.inputs import Batch, Entries, Inputs
from pipeline.models.towers import MatchingModel
from pipeline.params import Params, parse_params
from pipeline.runtime.processes import gather_uneven, local_span
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


def one_of_two(rank: int, port: int, folder: str) -> None:
    """What each of two gloo processes runs: every method, after one start."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    answers: dict[str, dict[str, Any]] = {name: trained(small_params(changes)) for name, changes in METHODS.items()}
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
