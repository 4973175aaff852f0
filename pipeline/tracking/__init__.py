"""The only package that uses MLflow: write, copy and read runs, their view in MLflow's pages, and logged models."""

from pipeline.tracking.naming import EVALUATE_KEY, TRAIN_KEY, committed_params, origin_tags, run_name
from pipeline.tracking.run import Tracker
from pipeline.tracking.runs import experiments, finished_runs, run_file
from pipeline.tracking.store import read_uri, reason, server_uri, store_uri, without_password
from pipeline.tracking.sync import Copier
from pipeline.tracking.view import renew_view, set_up_view

__all__ = [
    "EVALUATE_KEY",
    "TRAIN_KEY",
    "Copier",
    "Tracker",
    "committed_params",
    "experiments",
    "finished_runs",
    "origin_tags",
    "read_uri",
    "reason",
    "renew_view",
    "run_file",
    "run_name",
    "server_uri",
    "set_up_view",
    "store_uri",
    "without_password",
]
