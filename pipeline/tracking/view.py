"""The view of an experiment in MLflow's pages: columns, order and charts, stored in the experiment's tags.

MLflow's list of runs shows no parameter and no metric until a user selects columns. A link with
`viewStateShareKey=KEY` opens the view in the tag `mlflow.sharedViewState.KEY` (format: MLflow 3.17,
ExperimentPageUIState and ExperimentPageSearchFacetsState of its pages).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode

from pipeline.errors import InputError
from pipeline.files import digest_of
from pipeline.sections import NO_RESULT
from pipeline.tracking.naming import EVALUATED, SEED_NAME
from pipeline.tracking.runs import experiments, explained, finished_runs
from pipeline.tracking.store import experiment_id, open_client, read_uri, server_uri, without_password

KEY = "comparison"
TAG = f"mlflow.sharedViewState.{KEY}"
DIRECTIONS = ("i2t", "t2i")
RECALLS = tuple(f"test/{direction}/R{depth}" for direction in DIRECTIONS for depth in (1, 5, 10))
ALWAYS = ("sampler.strategy", "loss.name", "memory.size", "sampler.cutdown", "seed")
"""Parameters that are always shown."""
FIRST = ("memory.size", "sampler.cutdown")
TRUTH = tuple(f"test/truth/{direction}/mAP_at_R" for direction in DIRECTIONS)
CURVES = ("val/rsum", "train/loss", "sampler/false_negative_share", "sampler/threshold")
OVERVIEW, COMPARING, TRAINING = "What was varied, and what came of it", "One by one", "While training"
LAYOUT = {OVERVIEW: {"columns": 1, "cardHeight": 420}, COMPARING: {"columns": 2}, TRAINING: {"columns": 2}}
LEADING = {"attributes.`Run Name`": 210, "runDateAndNestInfo": 40}  # MLflow's own first columns, width in pixels
MOST_RUNS = 100  # per chart
MOST_AXES = 8  # of parallel coordinates; more are not readable


def set_up_view(experiment: str, *, make: bool = True) -> dict[str, str]:
    """Write the view for an experiment's current runs; a missing experiment is created, or with `make=False` refused.

    Returns:
        Links below the server's address: `table` and `charts`.

    Raises:
        InputError: when the store cannot be read or written, or the experiment is missing or was deleted.
    """
    runs = finished_runs(experiment)
    state = view_state([run["params"] for run in runs], {name for run in runs for name in run["metrics"]})
    with explained():
        client = open_client(read_uri())
        own = experiment_id(client, experiment, make=make)
        if not own:
            there = ", ".join(experiments()) or "none"
            store = without_password(read_uri())
            raise InputError(f"no experiment {experiment!r} in {store}; experiments there: {there}")
        client.set_experiment_tag(own, TAG, json.dumps(state))
        client.set_experiment_tag(own, "mlflow.experimentKind", "custom_model_development")

    def link(mode: str) -> str:
        query = {"workflowType": "machine_learning", "compareRunsMode": mode, "viewStateShareKey": KEY}
        return f"/#/experiments/{own}/runs?{urlencode(query)}"

    return {"table": link("TABLE"), "charts": link("CHART")}


def renew_view(experiment: str) -> None:
    """`set_up_view` for the store here, at the end of an experiment; a server's view is made by `make ui`.

    If the store fails, nothing happens: the experiment is complete, and `make ui` makes the view too.
    """
    if server_uri() is None:
        with suppress(Exception):  # of any kind, as in Tracker
            set_up_view(experiment)


def view_state(params: Sequence[Mapping[str, str]], metrics: Iterable[str]) -> dict[str, Any]:
    """The content of the tag.

    Args:
        params: of each run.
        metrics: the names of all metrics that the runs have.
    """
    shown = shown_parameters(params)
    there = set(metrics)
    charts = _charts([name for name in shown if _varies(name, params)] or list(ALWAYS), there)
    # a laptop's window ends after the recalls; the name of a run begins with what varies
    columns = [
        _column("metrics", EVALUATED),
        *(_column("params", name) for name in FIRST),
        *(_column("metrics", name) for name in RECALLS),
        *(_column("params", name) for name in shown if name not in FIRST),
    ]
    return {
        "searchFilter": "",
        "orderByKey": _column("metrics", EVALUATED),
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": columns,
        "columnOrder": [*LEADING, *columns],
        "columnWidths": LEADING | {column: _width(column) for column in columns},
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsVisibilityMap": {},
        "runsHiddenMode": "SHOW_ALL",
        "compareRunCharts": charts,
        "compareRunSections": _sections(there),
        "viewMaximized": True,
        "runListHidden": False,
        "isAccordionReordered": True,  # else MLflow sorts the sections
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "autoRefreshEnabled": True,
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
    }


def shown_parameters(params: Sequence[Mapping[str, str]]) -> list[str]:
    """The columns: varying parameters, then the rest of `ALWAYS`; the seed last."""
    names = sorted({name for found in params for name in found})
    varying = [name for name in names if _varies(name, params) and not name.startswith(("seed", *NO_RESULT))]
    first = [name for name in ALWAYS if name in varying]
    rest = [name for name in varying if name not in ALWAYS]
    return [*first, *rest, *(name for name in ALWAYS if name not in first)]


def _varies(name: str, params: Sequence[Mapping[str, str]]) -> bool:
    return len({found.get(name) for found in params}) > 1


def _charts(varying: Sequence[str], metrics: set[str]) -> list[dict[str, Any]]:
    axes = [SEED_NAME if name == "seed" else name for name in dict.fromkeys(["memory.size", *varying])]
    overview: dict[str, Any] = {
        "type": "PARALLEL",
        "selectedParams": axes[:MOST_AXES],
        "selectedMetrics": [*RECALLS, EVALUATED],
        "showAllRuns": True,
    }
    by_parameter: list[dict[str, Any]] = [
        {"type": "SCATTER", "xaxis": {"key": name, "type": "PARAM"}, "yaxis": {"key": EVALUATED, "type": "METRIC"}}
        for name in varying[:MOST_AXES]
        if name != "seed"
    ]
    bars: list[dict[str, Any]] = [
        {"type": "BAR", "metricKey": name} for name in (EVALUATED, "test/i2t/R1", "test/t2i/R1", *TRUTH)
    ]
    lines = [{"type": "LINE", **_line(name)} for name in CURVES]
    cards: list[tuple[str, dict[str, Any]]] = [(OVERVIEW, overview)]
    cards += [(COMPARING, card) for card in [*by_parameter, *bars]]
    cards += [(TRAINING, card) for card in lines]
    return [
        {
            "uuid": digest_of("chart", number)[:16],
            "runsCountToCompare": MOST_RUNS,
            "metricSectionId": _section_id(section),
            "deleted": False,
            "isGenerated": False,
            **card,
        }
        for number, (section, card) in enumerate(cards)
        if "metricKey" not in card or card["metricKey"] in metrics
    ]


def _line(metric: str) -> dict[str, Any]:
    return {
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "lineSmoothness": 0,
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "xAxisKey": "step",
        "selectedXAxisMetricKey": "",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
        "range": {},
    }


def _sections(metrics: set[str]) -> list[dict[str, Any]]:
    """Our sections, open; then MLflow's own, closed, with a chart of every other metric."""
    generated = sorted({name.rpartition("/")[0] for name in metrics})
    names = [*LAYOUT, *generated, "Model metrics", "System metrics"]
    return [
        {
            "uuid": _section_id(name),
            "name": name,
            "display": name in LAYOUT,
            "isReordered": True,
            "deleted": False,
            "isGenerated": name not in LAYOUT,
            **LAYOUT.get(name, {}),
        }
        for name in dict.fromkeys(names)
    ]


def _section_id(name: str) -> str:
    return digest_of("section", name)[:16]


def _column(kind: str, name: str) -> str:
    return f"{kind}.`{name}`"


def _width(column: str) -> int:
    """Width in pixels: that of the name, which is longer than most values."""
    return max(64, 6 * len(column.split("`")[1]) + 16)
