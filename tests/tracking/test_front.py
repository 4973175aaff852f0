"""The first page of the server that `make ui` starts."""

from __future__ import annotations

from pathlib import Path

import mlflow.server

from pipeline.tracking.front import SETTINGS, first_page

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
