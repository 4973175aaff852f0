"""Stage `train` stopped and started again; `tests/faults/test_kills.py` has it killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.features.inputs import Batch
from pipeline.training.loop import Training
from tests.stages.running import run, write_tiny_params


class KilledError(Exception):
    """What stands for a kill."""


def test_another_parameter_starts_again(heads_clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Training.step

    def killed(self: Training, batch: Batch, **how: Any) -> Any:
        if self.at.epoch == 2:
            raise KilledError
        return step(self, batch, **how)

    settings = {"model__train": "heads", "train__epochs": 3, "train__batch_size": 16}
    write_tiny_params(heads_clone, **settings)
    with monkeypatch.context() as patch:
        patch.setattr(Training, "step", killed)
        with pytest.raises(KilledError):
            run("train")
    for changes in ({"train__lr": 0.001}, {"sampler__cutdown": 0.3}):
        write_tiny_params(heads_clone, **(settings | changes))
        assert "going on" not in run("train")
    write_tiny_params(heads_clone, **settings, evaluate__batch_size=7)
    assert run("train").startswith("going on at epoch 3, step 8\n")
    assert not list(heads_clone.glob(".checkpoints/*/*")), "a run that is complete leaves no state behind"
