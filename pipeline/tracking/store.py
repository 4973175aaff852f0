"""The MLflow store to write, the server that gets a copy, and how to open both."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import nullcontext

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from pipeline.errors import InputError, printable
from pipeline.files import main_root

NAMED = "MLFLOW_TRACKING_URI"
SQLITE = "sqlite:///"
SETTINGS = {
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # an address may contain a password
    # with the default, a server that is down blocks a request for four minutes
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


def store_uri() -> str:
    """The store that stages write: the database in `MLFLOW_TRACKING_URI`, else `mlflow.db` in the main repository.

    A relative path of sqlite is also in the main repository, since queued experiments run in temporary copies of it.
    """
    named = (os.environ.get(NAMED) if server_uri() is None else None) or f"{SQLITE}mlflow.db"
    return f"{SQLITE}{main_root() / named.removeprefix(SQLITE)}" if named.startswith(SQLITE) else named


def server_uri() -> str | None:
    """The server that gets a copy of every run, if `MLFLOW_TRACKING_URI` names one.

    Raises:
        InputError: for an address that cannot be parsed: libraries would print parts of its password.
    """
    named = os.environ.get(NAMED, "")
    if not named.startswith(("http://", "https://")):
        return None
    if re.search(r"[/?#\[]", _user(named)):
        raise InputError(f"{NAMED}: its user and password need %2F for /, %3F for ?, %23 for # and %5B for [")
    return named.rstrip("/")


def read_uri() -> str:
    """Commands read runs from here: the server, which also has those of other machines, else the store."""
    return server_uri() or store_uri()


def open_client(uri: str) -> MlflowClient:
    """Open a store or a server; a missing database is created."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    # Two processes that create the database at the same time crash in its migrations.
    with nullcontext() if uri.startswith("http") else FileLock(main_root() / ".mlflow.lock"):
        return MlflowClient(tracking_uri=uri)


def experiment_id(client: MlflowClient, name: str, *, make: bool = True) -> str:
    """The id of an experiment. A missing one is created, or with `make=False` the id is empty.

    Raises:
        InputError: when it was deleted: MLflow keeps its name, and refuses new runs in it.
    """
    found = client.get_experiment_by_name(name)
    if found is None and make:
        # the default folder of artifacts is the working directory, which is temporary for a queued experiment
        here = None if client.tracking_uri.startswith("http") else (main_root() / "mlartifacts").as_uri()
        try:
            return client.create_experiment(name, here)
        except MlflowException:
            found = client.get_experiment_by_name(name)
            if found is None:  # else another process created it first
                raise
    if found is not None and found.lifecycle_stage == "deleted":
        raise InputError(
            f"the MLflow experiment {name!r} was deleted in {without_password(client.tracking_uri)}: "
            "restore it on MLflow's page, or give tracking.experiment another name"
        )
    return "" if found is None else str(found.experiment_id)


def log_new(client: MlflowClient, run_id: str, metrics: Sequence[Metric], known: dict[str, set[int]]) -> None:
    """Write the metrics at steps that the run does not have, so that writing twice changes nothing.

    `known` holds the steps that the run has, by metric; it is completed from the store, and updated.
    """
    for name in {metric.key for metric in metrics} - known.keys():
        known[name] = {there.step for there in client.get_metric_history(run_id, name)}
    new = [metric for metric in metrics if metric.step not in known[metric.key]]
    client.log_batch(run_id, metrics=new)
    for metric in new:
        known[metric.key].add(metric.step)


def without_password(uri: str) -> str:
    """An address without user and password, which may be printed."""
    return uri.replace(f"{_user(uri)}@", "", 1) if _user(uri) else uri


def reason(error: BaseException, uri: str) -> str:
    """The error as one line, without the password of `uri` and safe for a terminal (its text may be a server's)."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return printable(line.replace(f"{_user(uri)}@", "") if _user(uri) else line)


def _user(uri: str) -> str:
    """The part `user:password` of an address; a path of sqlite has none."""
    found = re.match(r"(?!sqlite)[\w+.-]+://(.*)@", uri)
    return found[1] if found else ""
