"""The charts of the test split's vectors and scores."""

from __future__ import annotations

import pytest
import torch
from matplotlib.axes import Axes

from pipeline.report.maps import embedding_map, precision_recall
from tests.report.making import CONFUSED, embedded_of


def test_precision_is_drawn_by_recall_from_end_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[list[float], list[float]]] = []
    monkeypatch.setattr(Axes, "plot", lambda _self, across, up, **_: drawn.append((across, up)))
    monkeypatch.setattr(Axes, "legend", lambda _self, **_: None)
    true_P = torch.tensor([True, False, True, False])
    chart = precision_recall({"good": torch.tensor([0.9, 0.1, 0.8, 0.2]), "constant": torch.ones(4)}, true_P)
    assert chart is not None
    assert "good 1.000, constant 0.500" in chart.description
    assert drawn[0][0][:3] == [0, 0.5, 1] and drawn[0][1][:3] == [1, 1, 1]
    assert drawn[0][0][-1] == 1 and drawn[0][1][-1] == 0.5
    assert (drawn[1][0][0], drawn[1][1][0], drawn[1][0][-1], drawn[1][1][-1]) == (0, 1, 1, 0.5)


def test_one_label_alone_has_no_chart() -> None:
    assert precision_recall({"score": torch.rand(3)}, torch.ones(3, dtype=torch.bool)) is None


def test_the_map_tells_captions_that_find_their_image_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, int] = {}
    monkeypatch.setattr(Axes, "scatter", lambda _self, across, _up, label, **_: drawn.update({label: len(across)}))
    assert embedding_map(embedded_of(CONFUSED)) is not None
    assert drawn == {"images": 4, "captions that find their image": 3, "captions that do not": 1}
    assert embedding_map(embedded_of([[1.0, 0.0], [0.0, 1.0]])) is None, "two images have no map"
