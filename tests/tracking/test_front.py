"""The first page of the server that `make ui` starts."""

from __future__ import annotations

import json
from pathlib import Path

import mlflow.server

from pipeline.tracking.front import SETTINGS, first_page, results_first

BUILD = Path(mlflow.server.__file__).parent / "js/build"


def test_the_script_comes_before_mlflow_s_own() -> None:
    page = (BUILD / "index.html").read_text()
    made = first_page(page, "/#/experiments/7/runs?viewStateShareKey=</script>")
    script, _, rest = made.partition("</script>")
    assert '"#/experiments/7/runs?viewStateShareKey=\\u003c/script>"' in script
    assert rest in page
    assert "<script" in rest


def test_mlflow_still_has_the_settings_by_these_names() -> None:
    code = "".join(path.read_text(errors="ignore") for path in (BUILD / "static/js").glob("*.js"))
    assert [name for name in SETTINGS if f'"{name.removesuffix("_v1")}"' not in code] == []
    for part in ("RunPage", "chartUIState", "compareRunSections", "isAccordionReordered"):
        assert part in code


def test_a_run_s_results_come_first_and_its_other_metrics_keep_their_order() -> None:
    logged = [
        "train/loss",
        "sampler/threshold",
        "last/rsum",
        "test/i2t/R1",
        "test/evidence/auc",
        "test/rsum",
        "val/rsum",
    ]
    run = {"data": {"mlflowGetRun": {"run": {"data": {"metrics": [{"key": name} for name in logged]}}}}}
    metrics = json.loads(results_first(json.dumps(run).encode()))["data"]["mlflowGetRun"]["run"]["data"]["metrics"]
    assert [metric["key"] for metric in metrics] == [
        *("test/rsum", "test/i2t/R1", "test/evidence/auc", "train/loss", "sampler/threshold", "val/rsum", "last/rsum")
    ]


def test_an_answer_about_something_else_is_passed_on_as_it_is() -> None:
    for answer in (b"not json", b"[]", b'{"data": {"mlflowGetRun": null}}', b'{"data": {"mlflowGetExperiment": {}}}'):
        assert results_first(answer) == answer
