"""Runs read back: what was finished, in which experiment, and the files that a run keeps."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError
from pipeline.tracking.delivery import EVALUATED
from pipeline.tracking.store import LONGER_PATIENCE, reason, store_uri, without_password

if TYPE_CHECKING:
    from mlflow import MlflowClient


def finished_runs(experiment: str) -> list[dict[str, Any]]:
    """Every finished run that was evaluated: its parameters, figures, seconds and tags, newest first.

    Returns:
        One dict a run: `run_id`, `name`, `seconds`, `params`, `metrics`, `tags`. Empty where there is no such
        experiment or no store yet.

    Raises:
        InputError: when the store cannot be read.
    """
    if not _store_is_there():
        return []
    with _explained():
        client = _client()
        found = client.get_experiment_by_name(experiment)
        return [] if found is None else list(_evaluated(client, found.experiment_id))


def experiments() -> list[str]:
    """The names of the store's experiments that may hold runs.

    Raises:
        InputError: when the store cannot be read.
    """
    if not _store_is_there():
        return []
    with _explained():
        return [found.name for found in _client().search_experiments() if found.name != "Default"]


def run_file(run_id: str, name: str, folder: Path) -> Path | None:
    """Fetch a file that a run keeps into `folder`; None where it has none, or its store is out of reach."""
    from mlflow.exceptions import MlflowException

    try:
        return Path(_client().download_artifacts(run_id, name, str(folder)))
    except (MlflowException, OSError):
        return None


def _client() -> MlflowClient:
    for name, value in LONGER_PATIENCE.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=store_uri())


def _store_is_there() -> bool:
    """MLflow would make a database that is not there: reading must not."""
    uri = store_uri()
    return not uri.startswith("sqlite:///") or Path(uri.removeprefix("sqlite:///")).exists()


@contextmanager
def _explained() -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        uri = store_uri()
        raise InputError(f"MLflow at {without_password(uri)}: cannot be read ({reason(error, uri)})") from None


def _evaluated(client: MlflowClient, experiment_id: str) -> Iterator[dict[str, Any]]:
    token: str | None = None
    while True:
        page = client.search_runs(
            [experiment_id],
            "attributes.status = 'FINISHED'",
            order_by=["attributes.start_time DESC"],
            page_token=token,
        )
        for run in page:
            if EVALUATED in run.data.metrics and "mlflow.parentRunId" not in run.data.tags:
                yield {
                    "run_id": run.info.run_id,
                    "name": run.info.run_name,
                    "seconds": (run.info.end_time - run.info.start_time) / 1000,
                    "params": run.data.params,
                    "metrics": run.data.metrics,
                    "tags": run.data.tags,
                }
        token = page.token
        if not token:
            return
