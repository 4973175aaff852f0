"""A parameter that changes while its stage works: DVC would record the new value for what the old one made."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import InputError
from stages.recorded import check_recorded, recorded

STAGES = "stages:\n  train:\n    params: [seed, sampler, memory.size]\n"
BEFORE = "seed: 1\nsampler: {cutdown: 0.2, alpha: 1}\nmemory: {size: 8, note: x}\n"


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_STAGE", "train")
    Path("dvc.yaml").write_text(STAGES)
    Path("params.yaml").write_text(BEFORE)


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
