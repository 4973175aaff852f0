"""Read runs: the finished ones of an experiment, and their files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from pipeline.errors import InputError
from pipeline.tracking.naming import EVALUATED, SEED_NAME
from pipeline.tracking.store import experiment_id, open_client, read_uri, reason, without_password


def finished_runs(experiment: str) -> list[dict[str, Any]]:
    """Every finished and evaluated run, newest first; each evaluation of a training is one.

    Returns:
        One dict per run: `run_id`, `name`, `params`, `metrics`, `tags`, and `test`, the digest of its test split (empty
        for a run that logged none). Empty if the experiment or the store does not exist.

    Raises:
        InputError: when the store cannot be read.
    """
    if not _store_is_there():
        return []
    with explained():
        client = open_client(read_uri())
        found = experiment_id(client, experiment, make=False)
        return list(_evaluated(client, found)) if found else []


def experiments() -> list[str]:
    """The names of the store's experiments that may hold runs.

    Raises:
        InputError: when the store cannot be read.
    """
    if not _store_is_there():
        return []
    with explained():
        return [found.name for found in open_client(read_uri()).search_experiments() if found.name != "Default"]


def run_file(run_id: str, name: str, folder: Path) -> Path | None:
    """Download a run's file into `folder`; None if it has none, or if its store cannot be reached."""
    try:
        return Path(open_client(read_uri()).download_artifacts(run_id, name, str(folder)))
    except (MlflowException, OSError):
        return None


def search(
    client: MlflowClient, experiments: list[str], condition: str, order: str = "attributes.start_time DESC"
) -> Iterator[Run]:
    """All runs in these experiments (ids) that fulfil MLflow's filter `condition`, page by page."""
    token: str | None = None
    while token != "":
        page = client.search_runs(experiments, condition, order_by=[order], page_token=token)
        yield from page
        token = page.token or ""


@contextmanager
def explained() -> Iterator[None]:
    """Turn MLflow's errors into an `InputError` of one line."""
    try:
        yield
    except MlflowException as error:
        uri = read_uri()
        raise InputError(f"MLflow at {without_password(uri)}: cannot be read ({reason(error, uri)})") from None


def _store_is_there() -> bool:
    """Checked before reading, since MLflow would create a missing database."""
    uri = read_uri()
    return not uri.startswith("sqlite:///") or Path(uri.removeprefix("sqlite:///")).exists()


def _evaluated(client: MlflowClient, experiment_id: str) -> Iterator[dict[str, Any]]:
    for run in search(client, [experiment_id], "attributes.status = 'FINISHED'"):
        if EVALUATED in run.data.metrics:
            yield {
                "run_id": run.info.run_id,
                "name": run.info.run_name,
                "params": {name: value for name, value in run.data.params.items() if name != SEED_NAME},
                "metrics": run.data.metrics,
                "tags": run.data.tags,
                "test": _test_split(run),
            }


def _test_split(run: Run) -> str:
    """The digest by which `Tracker.data_set` logged the test split."""
    for read in run.inputs.dataset_inputs if run.inputs else ():
        if any(tag.key == "mlflow.data.context" and tag.value == "test" for tag in read.tags):
            return str(read.dataset.digest)
    return ""
