from __future__ import annotations

import math

import pandas
import pytest

from pipeline.report.charts import Line, line_chart
from pipeline.report.curves import posterior_note, run_charts


def test_a_curve_stays_inside_its_axes_and_ticks_are_round() -> None:
    line = Line("loss", [0, 50, 100], [0.31, 0.12, 0.44], "plain")
    chart = line_chart("c", "Loss", "", [line], x_label="step", y_label="loss")
    assert chart is not None
    points = [tuple(map(float, point.split(","))) for point in chart.curves[0].path[1:].split("L")]
    assert all(chart.left <= x <= chart.right and chart.top <= y <= chart.bottom for x, y in points)
    assert points[0][0] < points[1][0] < points[2][0]
    assert points[1][1] > points[0][1] > points[2][1], "a drawing's y axis points down"
    assert [tick.text for tick in chart.y_ticks] == ["0.1", "0.2", "0.3", "0.4", "0.5"]


@pytest.mark.parametrize("values", [[2.0, 2.0], [2.0, math.nan]])
def test_a_flat_curve_and_a_gap_are_drawn(values: list[float]) -> None:
    chart = line_chart("c", "Flat", "", [Line("flat", [1, 2], values, "plain")], x_label="x", y_label="y")
    assert chart is not None
    assert "nan" not in chart.curves[0].path


def test_what_has_no_point_is_no_chart() -> None:
    assert line_chart("c", "None", "", [Line("none", [1], [math.nan], "plain")], x_label="x", y_label="y") is None


def curves_of(posterior: list[float]) -> pandas.DataFrame:
    ones = [1.0] * len(posterior)
    similarity = [number / 10 for number in range(len(posterior))]
    return pandas.DataFrame(
        {"similarity": similarity, "matched": ones, "unmatched": ones, "posterior": posterior, "weight": ones}
    )


def test_the_note_says_when_the_posterior_falls_again() -> None:
    assert "falls again" in posterior_note(curves_of([0.0, 0.6, 0.1]))
    assert "falls again" not in posterior_note(curves_of([0.0, 0.1, 0.6]))


def test_a_run_has_the_charts_that_its_records_allow() -> None:
    history = pandas.DataFrame({"step": [1, 2], "train/loss": [1.0, 0.5]})
    validation = pandas.DataFrame({"step": [2], "val_rsum": [100.0]})
    charts = run_charts(curves_of([0.0, 0.1, 0.6]), history, validation, threshold=0.1)
    assert [chart.key for chart in charts] == ["chart-similarity", "chart-loss", "chart-validation"]
    assert charts[0].marker is not None
    assert run_charts(curves_of([0.0, 0.1]), history, validation, threshold=-1)[0].marker is None
