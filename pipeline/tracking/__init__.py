"""The only package that knows MLflow: runs written and read, the view that shows them, the models they keep."""

from pipeline.tracking.delivery import EVALUATE_KEY, EVALUATED, TRAIN_KEY
from pipeline.tracking.journal import journals, remove_leftovers
from pipeline.tracking.naming import committed_params, run_name
from pipeline.tracking.run import Point, Tracker, origin_tags
from pipeline.tracking.runs import experiments, finished_runs, run_file
from pipeline.tracking.sending import send_patiently
from pipeline.tracking.store import store_uri
from pipeline.tracking.view import set_up_view

__all__ = [
    "EVALUATED",
    "EVALUATE_KEY",
    "TRAIN_KEY",
    "Point",
    "Tracker",
    "committed_params",
    "experiments",
    "finished_runs",
    "journals",
    "origin_tags",
    "remove_leftovers",
    "run_file",
    "run_name",
    "send_patiently",
    "set_up_view",
    "store_uri",
]
