"""Two processes see the batch that one sees: the same losses and the same weights."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor, multiprocessing, nn

from pipeline.models.towers import MatchingModel
from pipeline.params import Params, load_params, parse_params
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.loop import Training
from pipeline.training.pairs import Batch, Inputs
from pipeline.training.processes import local_span, uniform

IMAGES, TEXTS, WIDTH, STEPS, BATCH = 12, 30, 6, 4, 7  # 7 does not divide by 2


def small_params(strategy: str, loss: str, memory: int) -> Params:
    """The repository's parameters with a small memory and another method."""
    content = load_params(Path(__file__).parents[2] / "params.yaml").model_dump()
    content["memory"]["size"] = memory
    content["sampler"] |= {"strategy": strategy, "min_matches": 0}
    content["loss"]["name"] = loss
    return parse_params(content)


def trained(params: Params) -> tuple[list[float], dict[str, Tensor]]:
    """Losses of a few steps on fixed features, averaged over the processes, and the weights after them."""
    from accelerate import Accelerator

    torch.manual_seed(0)
    images, texts = torch.randn(IMAGES, 8), torch.randn(TEXTS, 8)
    caption_image = torch.arange(TEXTS) % IMAGES
    model = MatchingModel(nn.Identity(), nn.Identity(), nn.Linear(8, WIDTH), nn.Linear(8, WIDTH))
    inputs, checkpoint = cast(Inputs, None), cast(Checkpoint, None)
    training = Training(params, model, WIDTH, inputs, inputs, ([], []), Accelerator(cpu=True), checkpoint)
    losses = []
    for step in range(STEPS):
        order = torch.randperm(TEXTS, generator=torch.Generator().manual_seed(step))[:BATCH]
        span = local_span(BATCH)
        captions = order[span.start : span.stop]
        own = caption_image[captions]
        loss, _ = training.step(
            Batch(images[own], texts[captions], own, captions, span.start, BATCH), warming_up=step == 0
        )
        training.at.step += 1
        losses.append(training.accelerator.reduce(loss, "mean").item())
    return losses, {name: value.detach().clone() for name, value in training.model.state_dict().items()}


METHODS = [("fne", "triplet", 16), ("hardest", "triplet", 0), ("random", "triplet", 5), ("all", "infonce", 0)]


def one_of_two(rank: int, port: int, folder: str) -> None:
    """What each of two gloo processes runs: every method, after one start."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    answers = [trained(small_params(*method)) for method in METHODS]
    if rank == 0:
        torch.save(answers, Path(folder) / "answers.pt")
    torch.distributed.destroy_process_group()


def free_port() -> int:
    """A port on this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[list[float], dict[str, Tensor]]]:
    """Losses and weights of each method, trained by two processes."""
    folder = tmp_path_factory.mktemp("two")
    multiprocessing.spawn(one_of_two, (free_port(), str(folder)), nprocs=2)
    answers: list[tuple[list[float], dict[str, Tensor]]] = torch.load(folder / "answers.pt", weights_only=True)
    return answers


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_two_processes_train_like_one(
    method: tuple[str, str, int], of_two: list[tuple[list[float], dict[str, Tensor]]]
) -> None:
    losses_of_two, weights_of_two = of_two[METHODS.index(method)]
    losses, weights = trained(small_params(*method))
    assert losses_of_two == pytest.approx(losses, rel=1e-5)
    for name, value in weights.items():
        torch.testing.assert_close(weights_of_two[name], value, rtol=1e-4, atol=1e-6)


def test_a_draw_depends_on_seed_and_step_alone() -> None:
    assert torch.equal(uniform(1, 2, 8), uniform(1, 2, 8))
    assert not torch.equal(uniform(1, 2, 8), uniform(1, 3, 8))
    assert not torch.equal(uniform(1, 2, 8), uniform(2, 2, 8))


def test_draws_stay_strictly_between_0_and_1() -> None:
    drawn = uniform(3, 4, 1_000_000)
    assert drawn.min() > 0
    assert drawn.max() < 1
