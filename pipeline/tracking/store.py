"""Which store is written and read, and how long a request to it may take."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from pipeline.files import main_root

# By default an unreachable server blocks one call for four minutes. What a stage cannot send at once it keeps, and
# tries again when it ends; how long it waits in all follows from this (`pipeline.tracking.patience`).
PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "2",
}
# Of commands that exist to read or send.
LONGER_PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
NAMED = "MLFLOW_TRACKING_URI"


def store_uri() -> str:
    """`MLFLOW_TRACKING_URI`, or a database in the main repository, the same for every queued experiment."""
    return os.environ.get(NAMED) or f"sqlite:///{main_root() / 'mlflow.db'}"


def without_password(uri: str) -> str:
    """An address as it may be written down: without user and password."""
    try:
        parts = urlsplit(uri)
    except ValueError:  # no address at all: whoever opens it will say so
        return uri
    return uri.replace(parts.netloc, parts.netloc.rpartition("@")[2], 1) if "@" in parts.netloc else uri


def named_store() -> str | None:
    """What a journal says about its store: the address without password; None for the main repository's database.

    That database is not named by its path: a repository may be moved.
    """
    return without_password(os.environ[NAMED]).rstrip("/") if os.environ.get(NAMED) else None


def address(named: str | None) -> str | None:
    """Where the store is that `named_store` has written down; None where the environment names another one."""
    if named == named_store():
        return store_uri()  # with its password
    return None if os.environ.get(NAMED) else named


def reason(error: BaseException, uri: str) -> str:
    """What went wrong, as one line without the store's password."""
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return first_line.replace(uri.rstrip("/"), without_password(uri).rstrip("/"))
