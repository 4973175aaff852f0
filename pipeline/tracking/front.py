"""MLflow's server for `make ui`, whose first page is the view that compares the runs (`pipeline.tracking.view`).

MLflow has no setting for its first page: without this it is a page about generative AI, and a click on an experiment
shows traces. A short script is added to MLflow's one HTML page, and a run's page gets its metrics and charts in another
order; all else is MLflow's own server. It is found as `mlflow ui --app-name fne-pipeline`, by the entry point
`mlflow.app` in pyproject.toml.
"""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from pipeline.tracking.naming import EVALUATED

APP = "fne-pipeline"
VIEW = "FNE_PIPELINE_VIEW"
"""Environment variable: the link of the view, below the server's address."""

SETTINGS = {
    "mlflow.workflowType_v1": "machine_learning",
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": True,  # its panel; its button is hidden by the style below
    "mlflow.telemetry.info.alert.dismissed_v1": True,
}
"""What a person would have clicked, in the browser's storage; a choice that is there is kept. Names of MLflow 3.17."""

CURVES = ("val", "train", "sampler", "similarity", "val/i2t", "val/t2i")
SINGLE = ("test", "test/i2t", "test/t2i", "last", "last/i2t", "last/t2i")
RUN_CHARTS = {
    "isAccordionReordered": True,  # else MLflow sorts the sections
    "compareRunCharts": [],
    "compareRunSections": [
        {
            "uuid": f"section {name}",
            "name": name,
            "display": name in CURVES,
            "isReordered": True,
            "deleted": False,
            "isGenerated": True,
        }
        for name in (*CURVES, *SINGLE)
    ],
    "autoRefreshEnabled": True,
}
"""The tab "Model metrics" of a run: curves first, results of one value in closed sections; MLflow adds the charts."""

SCRIPT = """<style>[data-assistant-ui] { display: none !important }</style>
<script>
const keep = (key, value) => localStorage.getItem(key) === null && localStorage.setItem(key, JSON.stringify(value));
Object.entries(%(settings)s).forEach(([key, value]) => keep(key, value));
const prepareRun = hash => {
  const run = /[/]runs[/]([0-9a-f]{32})/.exec(hash);
  if (run) keep(`MLflowLocalStorage-1.1-RunPage-${run[1]}-model-chartUIState`, %(run)s);
};
prepareRun(location.hash);
const view = %(view)s, experiment = view.split("/runs")[0];
const isFirst = hash => ["", "#", "#/", experiment].includes(hash.split("?")[0]) ||
  hash.startsWith(experiment + "/overview") || hash.startsWith(experiment + "/traces");
const toView = hash => isFirst(hash) && setTimeout(() => location.replace(view));
if (isFirst(location.hash)) location.replace(view);
addEventListener("hashchange", event => toView(new URL(event.newURL).hash));
for (const name of ["pushState", "replaceState"]) {
  const own = history[name].bind(history);
  history[name] = (state, title, url) => {
    const place = String(url ?? "");
    prepareRun(place);
    own(state, title, url);
    if (place.includes("#")) toView(place.slice(place.indexOf("#")));
  };
}
</script>"""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Scope]]
Send = Callable[[Scope], Awaitable[None]]


def first_page(page: str, view: str) -> str:
    """MLflow's HTML page with the script at the start of its head; `view`: `/#/experiments/…/runs?…`."""
    told = {
        "settings": json.dumps(SETTINGS),
        "run": json.dumps(RUN_CHARTS),
        "view": json.dumps(view.removeprefix("/")).replace("<", r"\u003c"),
    }
    return page.replace("<head>", f"<head>{SCRIPT % told}", 1)


def results_first(answer: bytes) -> bytes:
    """An answer about a run with its test metrics first and the last epoch's last; any other answer as it is.

    MLflow lists metrics in the order of their first value, so that the result stands below fifty lines.
    """
    try:
        run = json.loads(answer)
        run["data"]["mlflowGetRun"]["run"]["data"]["metrics"].sort(key=_place)
    except (ValueError, KeyError, TypeError):
        return answer
    return json.dumps(run).encode()


def _place(metric: dict[str, Any]) -> tuple[bool, bool, bool]:
    name = metric["key"]
    return name != EVALUATED, not name.startswith("test/"), name.startswith("last/")


def changed(send: Send, change: Callable[[bytes], bytes]) -> Send:
    """A `send` that passes on a whole answer with its body changed."""
    start: Scope = {}
    body = bytearray()

    async def passed(message: Scope) -> None:
        if message["type"] == "http.response.start":
            start.update(message)
            return
        body.extend(message.get("body", b""))
        if not message.get("more_body", False):
            content = change(bytes(body))
            headers = [header for header in start["headers"] if header[0].lower() != b"content-length"]
            await send({**start, "headers": [*headers, (b"content-length", str(len(content)).encode())]})
            await send({"type": "http.response.body", "body": content})

    return passed


class FirstPage:
    """The ASGI application; an object, because MLflow takes a function for a factory."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        from mlflow.server import fastapi_app
        from starlette.responses import HTMLResponse

        if scope["type"] == "http" and scope["path"] == "/":
            page = Path(fastapi_app.__file__).parent / "js/build/index.html"
            html = first_page(page.read_text(encoding="utf-8"), os.environ[VIEW])
            await HTMLResponse(html, headers={"Cache-Control": "no-cache"})(scope, receive, send)
        elif scope["type"] == "http" and scope["path"] == "/graphql":
            await fastapi_app.app(scope, receive, changed(send, results_first))
        else:
            await fastapi_app.app(scope, receive, send)


app = FirstPage()
