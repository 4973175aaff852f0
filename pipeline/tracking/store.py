"""Which store is written and read, and how long an unreachable one is waited for."""

from __future__ import annotations

import os

from pipeline.files import main_root

# By default an unreachable server blocks one call for four minutes. What a stage cannot send at once it keeps, and
# tries again when it ends: twice this long is what a server that hangs can cost it.
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


def store_uri() -> str:
    """`MLFLOW_TRACKING_URI`, or a database in the main repository, the same for every queued experiment."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{main_root() / 'mlflow.db'}"
