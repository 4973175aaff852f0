"""docs/sampler.md: a method of one's own is one function and one line; its examples train."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.errors import InputError
from pipeline.objectives import mine as my_losses
from pipeline.sampling import mine
from tests.training.making import frozen_pairs, linear_heads, params_with, tiny_training

PAGE = (Path(__file__).parents[2] / "docs/sampler.md").read_text()
EXAMPLES = re.findall(
    r"```python\n# pipeline/(\w+)/mine\.py\n(.*?)```\n\n```sh\ndvc exp run ([^\n]*)\n", PAGE, re.DOTALL
)


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's functions in the two files that it names."""
    for room, code, _ in EXAMPLES:
        names: dict[str, Any] = {}
        exec(code, names)  # noqa: S102 - the page of this repository
        for name in re.findall(r"^def (\w+)", code, re.MULTILINE):
            monkeypatch.setattr({"sampling": mine, "objectives": my_losses}[room], name, names[name], raising=False)


def changes(line: str) -> dict[str, Any]:
    named = dict(part.split("=") for part in re.findall(r"-S (\S+)", line))
    return {key.replace(".", "__"): None if value == "null" else value for key, value in named.items()}


def test_the_page_has_a_strategy_a_target_and_a_loss() -> None:
    keys = ["sampler__strategy", "targets__name", "loss__name"]
    assert [next(iter(changes(line))) for _, _, line in EXAMPLES] == keys


@pytest.mark.parametrize("memory", [0, 7])
@pytest.mark.parametrize("line", [line for *_, line in EXAMPLES])
def test_an_example_trains(line: str, memory: int, own: None, tmp_path: Path) -> None:
    params = params_with(**changes(line), memory__size=memory, train__epochs=2, train__batch_size=6)
    training = tiny_training(tmp_path, params, linear_heads(), frozen_pairs(tmp_path / "inputs"))
    assert all(0 < row["train/loss"] < torch.inf for row in training.run().history)


def test_the_function_that_is_named_makes_the_weights(own: None, tmp_path: Path) -> None:
    once = {"memory__size": 0, "train__epochs": 1, "train__warmup_epochs": 0, "train__batch_size": 12}
    params = params_with(sampler__strategy="mine.top", **once)
    training = tiny_training(tmp_path, params, linear_heads(), frozen_pairs(tmp_path / "inputs"))
    chosen: list[list[float]] = []

    def draw(weights_BC: Tensor, uniform_B: Tensor) -> Tensor:
        chosen.append(sorted(weights_BC.sum(dim=1).tolist()))
        return weights_BC.argmax(dim=1)

    training.objective.draw = draw
    training.run()
    assert chosen[0] == [9.0] * 3 + [10.0] * 9  # an image has three captions: nine others are left to it


def test_a_function_that_is_not_there_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"loss\.name = 'mine\.absent': pipeline/objectives/mine\.py has no function"):
        tiny_training(
            tmp_path, params_with(loss__name="mine.absent"), linear_heads(), frozen_pairs(tmp_path / "inputs")
        )
