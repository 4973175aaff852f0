"""Which store is written and read, and how long a request to it may take."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from pipeline.errors import printable
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
UNESCAPED = "its user and password need %2F for /, %3F for ?, %23 for # and %5B for ["


def store_uri() -> str:
    """`MLFLOW_TRACKING_URI`, or a database in the main repository, the same for every queued experiment."""
    return os.environ.get(NAMED) or f"sqlite:///{main_root() / 'mlflow.db'}"


def without_password(uri: str) -> str:
    """An address as it may be written down: without user and password."""
    if _unescaped(uri):
        scheme, _, rest = uri.partition("//")
        return f"{scheme}//{rest.rpartition('@')[2]}"
    try:
        netloc = urlsplit(uri).netloc
    except ValueError:  # no address at all: whoever opens it will say so
        return uri
    return uri.replace(netloc, netloc.rpartition("@")[2], 1) if "@" in netloc else uri


def _unescaped(uri: str) -> bool:
    """Whether user or password may end the host's part before its "@", so that they look like a part of the path."""
    if "@" not in uri.partition("//")[2]:
        return False
    try:
        netloc = urlsplit(uri).netloc
    except ValueError:
        return True
    return netloc != "" and "@" not in netloc  # a database's path may hold one


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
    """What went wrong, as one line without the store's password, and fit for a terminal: a server may have written it.

    Of an address that cannot be taken apart libraries show parts, and nobody knows which: only that is told.
    """
    if _unescaped(uri):
        return UNESCAPED
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return printable(first_line.replace(uri.rstrip("/"), without_password(uri).rstrip("/")))
