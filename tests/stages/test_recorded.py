"""A parameter that changes while its stage works: DVC would record the new value for what the old one made."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.errors import InputError
from stages.recorded import BEGAN_WITH, check_recorded, recorded

STAGES = """stages:
  train:
    params: [seed, sampler, memory.size]
    deps: [data/split, stages/train.py, pipeline/models]
"""
CODE = ("stages/train.py", "pipeline/models/towers.py", "pipeline/models/heads/linear.py", "pipeline/report/page.py")
BEFORE = "seed: 1\nsampler: {cutdown: 0.2, alpha: 1}\nmemory: {size: 8, note: x}\n"


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_STAGE", "train")
    Path("dvc.yaml").write_text(STAGES)
    Path("params.yaml").write_text(BEFORE)
    for name in (*CODE, "data/split/train.json"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("1")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("seed: 1", "seed: 2", "seed was 1 when stage train began and is 2 now"),
        ("0.2", "0.3", "sampler.cutdown was 0.2 when .* and is 0.3 now"),
        ("alpha: 1", "alpha: 1, beta: 2", "sampler.beta was not there when .* and is 2 now"),
        ("size: 8, ", "", "memory.size was 8 .* and is not there now"),
        (BEFORE, "[", "seed was 1 .* and is not there now"),
    ],
)
def test_what_the_stage_depends_on_must_be_the_same_at_its_end(old: str, new: str, told: str) -> None:
    with pytest.raises(InputError, match=told), recorded():
        check_recorded()
        Path("params.yaml").write_text(BEFORE.replace(old, new))


@pytest.mark.parametrize("name", [*CODE[:3], "pipeline/models/new.py"])
def test_so_must_its_code(name: str) -> None:
    with pytest.raises(InputError, match=f"^{name} is not as it was when stage train began"), recorded():
        check_recorded()
        Path(name).write_text("2")


@pytest.mark.parametrize("name", [CODE[3], "data/split/train.json", "pipeline/models/__pycache__/towers.pyc"])
def test_other_files_may_change(name: str) -> None:
    with recorded():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("2")


def test_a_process_that_the_stage_starts_goes_by_what_the_stage_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    with recorded():
        noted = os.environ[BEGAN_WITH]
    assert BEGAN_WITH not in os.environ
    monkeypatch.setenv(BEGAN_WITH, noted)
    with recorded():
        pass
    Path("params.yaml").write_text(BEFORE.replace("seed: 1", "seed: 2"))
    with pytest.raises(InputError, match="seed was 1 when stage train began and is 2 now"), recorded():
        pytest.fail("it works with what the stage did not note")
    assert os.environ[BEGAN_WITH] == noted


@pytest.mark.parametrize(
    ("old", "new"), [("note: x", "note: y"), ("note: x", "sizes: 3"), ("seed: 1", "seed: 1  # why")]
)
def test_what_it_does_not_depend_on_may_change(old: str, new: str) -> None:
    with recorded():
        Path("params.yaml").write_text(BEFORE.replace(old, new))


def test_a_stage_that_somebody_starts_by_hand_records_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVC_STAGE")
    with recorded():
        Path("params.yaml").write_text("seed: 2")


def test_an_error_of_the_stage_is_the_one_that_is_told() -> None:
    with pytest.raises(InputError, match="mine"), recorded():
        Path("params.yaml").write_text("seed: 2")
        raise InputError("mine")
