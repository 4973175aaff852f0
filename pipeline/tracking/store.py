"""Which store is written and read, and how long an unreachable one is waited for."""

from __future__ import annotations

import os

from pipeline.files import main_root

# By default an unreachable server blocks one call for four minutes.
PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "3",
}


def store_uri() -> str:
    """`MLFLOW_TRACKING_URI`, or a database in the main repository, the same for every queued experiment."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{main_root() / 'mlflow.db'}"
