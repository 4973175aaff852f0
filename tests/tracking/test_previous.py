"""What a run says of the one before it."""

from __future__ import annotations

import time
from typing import Any

import pytest

from pipeline.tracking import EVALUATE_KEY, Tracker
from tests.tracking.making import EXPERIMENT

pytestmark = pytest.mark.usefixtures("clone")

PARAMS = {"memory.size": 8, "sampler.cutdown": 0.2, "data.root": None}


def outcome(name: str, rsum: float | None, *, data: str = "d", **changes: Any) -> tuple[str, str]:
    """Of a run with these parameters; without `rsum`, it is killed before its evaluation."""
    time.sleep(0.002)  # runs start in different milliseconds
    tracker = Tracker(EXPERIMENT)
    params = PARAMS | {key.replace("__", "."): value for key, value in changes.items()}
    tracker.begin(name, name, params, {EVALUATE_KEY: name, "data.digest": data})
    if rsum is None:
        tracker.finish("KILLED")
        return "", ""
    tracker.log_rows([{"step": 1, "test/rsum": rsum}])
    tracker.finish()
    assert tracker.find_evaluation(name)
    said = tracker.outcome()
    tracker.finish()
    return said


def test_the_first_run_is_compared_with_nothing() -> None:
    assert outcome("one", 200.0) == ("one", "")


def test_it_names_what_changed_and_the_difference() -> None:
    outcome("one", 221.31)
    assert outcome("two", 224.25, sampler__cutdown=0.1, data__root="/cars", launch__processes=2) == (
        "two",
        "compared with one: data.root null → /cars, sampler.cutdown 0.2 → 0.1; test rsum 221.3 → 224.2 (+2.9)",
    )


def test_the_previous_run_is_the_newest_finished_one_before_it() -> None:
    outcome("one", 221.0)
    outcome("two", 200.0)
    outcome("killed", None)
    assert outcome("three", 199.0)[1].startswith("compared with two: ")
    tracker = Tracker(EXPERIMENT)
    assert tracker.find_evaluation("two")
    assert tracker.outcome()[1].startswith("compared with one: "), "a report made again later"
    tracker.finish()


def test_another_evaluation_is_no_previous_run() -> None:
    outcome("one", 221.0)
    tracker = Tracker(EXPERIMENT)
    assert tracker.continue_for_evaluation("one", "again", "one", PARAMS | {"evaluate.folds": 5}, {})
    tracker.log_rows([{"step": 1, "test/rsum": 300.0}])
    tracker.finish()
    assert tracker.outcome()[1].startswith("compared with one: evaluate.folds missing → 5; ")
    assert outcome("two", 200.0)[1].startswith("compared with one: nothing changed; test rsum 221.0 → 200.0")


def test_with_equal_parameters_it_names_data_and_code() -> None:
    outcome("one", 200.0)
    assert outcome("two", 200.0)[1] == "compared with one: nothing changed; test rsum 200.0 → 200.0 (+0.0)"
    assert outcome("three", 200.0, data="other")[1].startswith("compared with two: the data; ")


def test_many_changes_stay_one_line() -> None:
    outcome("one", 200.0)
    many: dict[str, Any] = {f"section__p{n}": n for n in range(30)}
    said = outcome("two", 200.0, **many)[1]
    assert "section.p0 missing → 0, " in said
    assert "22 more parameters; test rsum" in said


def test_a_store_that_fails_is_no_error() -> None:
    outcome("one", 200.0)
    tracker = Tracker(EXPERIMENT)
    assert tracker.find_evaluation("one")
    tracker.run_id = "gone"
    assert tracker.outcome() == ("", "")
