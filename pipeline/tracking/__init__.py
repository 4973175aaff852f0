"""The only package that knows MLflow: runs written and read, the view that shows them, the models they keep."""

from pipeline.tracking.run import EVALUATE_KEY, EVALUATED, TRAIN_KEY, Point, Tracker, origin_tags
from pipeline.tracking.runs import experiments, finished_runs, run_file
from pipeline.tracking.store import store_uri

__all__ = [
    "EVALUATED",
    "EVALUATE_KEY",
    "TRAIN_KEY",
    "Point",
    "Tracker",
    "experiments",
    "finished_runs",
    "origin_tags",
    "run_file",
    "store_uri",
]
