from __future__ import annotations

import base64
import math
from typing import Any

import pandas
import pytest

from pipeline.report.curves import Chart, posterior_note, rule_note, run_charts
from tests.paper import paper_params

RECORD = pandas.DataFrame({"step": [1, 2, 3], "train/loss": [1.0, math.nan, 0.5], "val_rsum": [math.nan] * 3})


def curves_of(posterior: list[float]) -> pandas.DataFrame:
    ones = [1.0] * len(posterior)
    similarity = [number / 10 for number in range(len(posterior))]
    return pandas.DataFrame(
        {"similarity": similarity, "matched": ones, "unmatched": ones, "posterior": posterior, "weight": ones}
    )


def drawn(chart: Chart) -> str:
    return base64.b64decode(chart.uri.removeprefix("data:image/svg+xml;base64,")).decode()


def test_the_note_says_when_the_posterior_falls_again() -> None:
    assert "falls again" in posterior_note(curves_of([0.0, 0.6, 0.1]))
    assert "falls again" not in posterior_note(curves_of([0.0, 0.1, 0.6]))


def test_the_notes_maximum_is_over_the_similarities_that_occur() -> None:
    curves = curves_of([0.0, 0.2, 0.1, 1.0])  # the curve goes on beyond all pairs
    curves.loc[3, ["matched", "unmatched"]] = 0.0
    assert posterior_note(curves).startswith("The posterior reaches 0.2, at similarity 0.10. It falls again")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ""),
        ({"sampler.posterior": "evidence"}, "took its posterior from the evidence"),
        ({"sampler.strategy": "all"}, "(sampler.strategy: all) has neither this weight nor this cut-down"),
        ({"sampler.strategy": "hardest", "sampler.posterior": "evidence"}, "(sampler.strategy: hardest)"),
        ({"train.epochs": 0}, "Nothing was trained and nothing sampled"),
        ({"model.weights": "published.pt"}, "Nothing was trained and nothing sampled"),
    ],
)
def test_the_chart_of_the_similarity_says_what_the_run_had_instead_of_fnes_rule(
    changes: dict[str, Any], said: str
) -> None:
    params = paper_params()
    for name, value in changes.items():
        section, key = name.split(".")
        part = getattr(params, section).model_copy(update={key: value})
        params = params.model_copy(update={section: part})
    note = rule_note(params)
    assert said in note
    assert bool(said) == bool(note)


def test_a_run_has_the_charts_that_its_records_allow_and_the_same_records_make_the_same_bytes() -> None:
    charts = run_charts(curves_of([0.0, 0.1, 0.6]), RECORD, RECORD, threshold=0.1)
    assert [chart.title for chart in charts[1:]] == ["Training loss"], "no validation has a number"
    assert charts[1].description == "From 1 to 0.5."
    for text in (">matched pairs<", ">nearest mismatches<", ">false-negative posterior<", ">cut-down at 0.10<"):
        assert text in drawn(charts[0])
    assert ">loss<" in drawn(charts[1])
    assert run_charts(curves_of([0.0, 0.1, 0.6]), RECORD, RECORD, threshold=0.1) == charts


def test_a_cut_down_that_the_curves_do_not_reach_is_not_drawn() -> None:
    assert "cut-down" not in drawn(run_charts(curves_of([0.0, 0.1]), RECORD, RECORD, threshold=-1)[0])
