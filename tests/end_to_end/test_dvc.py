"""The pipeline under DVC, in a clone: what runs again, what is tracked, and where it is tracked."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from dvc.repo.experiments.refs import WORKSPACE_STASH
from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.entities import Run

from stages.alone import PREPARING
from tests.data.published import write_params
from tests.stages.running import OUTSIDE, ROOT, finite

pytestmark = pytest.mark.end_to_end

SMALL: dict[str, Any] = {
    "data__scenes__train": 40,
    "data__scenes__val": 10,
    "data__scenes__test": 20,
    "base__scenes": 40,
    "base__epochs": 1,
    "train__epochs": 2,
    "train__batch_size": 16,
    "memory__size": 32,
    "sampler__min_matches": 4,
}
TRAINS = ".checkpoints/train-*.lock"
"""Taken by a training of its own parameters when its imports are done and its steps are not."""
RESULTS = ("dvc.lock", "metrics.json")  # what README asks to commit
LONGEST = 600  # seconds for anything here, on a busy machine


class Clone:
    """A repository with this working tree's files, committed, and what DVC says in it."""

    def __init__(self, folder: Path) -> None:
        """Copy what git tracks or would track, without results, make the pipeline small, commit."""
        self.folder = folder / "clone"
        outside = {name for name in os.environ if name in OUTSIDE or name.startswith(("DVC_", "GIT_", "MLFLOW_"))}
        self.environment = {name: value for name, value in os.environ.items() if name not in outside} | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "DVC_STUDIO_OFFLINE": "1",
            "DVC_NO_ANALYTICS": "1",
            **{f"DVC_{kind}_DIR": str(folder / kind) for kind in ("SITE_CACHE", "GLOBAL_CONFIG", "SYSTEM_CONFIG")},
            **{f"GIT_{who}_{what}": "test@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
        }
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file() and not name.startswith("tests/") and name not in RESULTS:
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, self.folder / name)
        write_params(self.folder, **SMALL)
        self.say("git", "init", "--quiet", "--initial-branch=main")
        self.commit("The pipeline, small")

    def say(self, *command: str, fails: bool = False) -> str:
        """What a command prints, having succeeded or, if it should, failed."""
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False, timeout=LONGEST
        )
        assert (done.returncode != 0) == fails, f"{' '.join(command)}:\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def dvc(self, *arguments: str) -> str:
        """The same of `dvc`."""
        return self.say(sys.executable, "-m", "dvc", *arguments)

    @property
    def log(self) -> Path:
        """What the command that was started last has printed."""
        return self.folder.with_name(f"{self.folder.name}.log")

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """`dvc` in a session of its own. It prints to a file: what is left of a killed one would keep a pipe open."""
        with open(self.log, "wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "dvc", *arguments],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def commit(self, message: str) -> None:
        """Commit everything that is not ignored."""
        self.say("git", "add", "--all")
        self.say("git", "commit", "--quiet", "--message", message)

    def metrics(self) -> dict[str, Any]:
        """The workspace's metrics.json."""
        return dict(json.loads((self.folder / "metrics.json").read_text()))

    def experiments(self) -> list[dict[str, str]]:
        """DVC's own table of them."""
        return list(csv.DictReader(self.dvc("exp", "show", "--csv").splitlines()))

    @property
    def client(self) -> MlflowClient:
        """The store that every experiment of this clone shares."""
        return MlflowClient(tracking_uri=f"sqlite:///{self.folder / 'mlflow.db'}")

    def runs(self) -> list[Run]:
        """All tracked runs, the oldest first."""
        experiment = self.client.get_experiment_by_name("fne")
        assert experiment is not None
        return list(self.client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"]))

    def run_with(self, name: str, value: str) -> Run:
        """The one run with this parameter."""
        (found,) = [run for run in self.runs() if run.data.params[name] == value]
        return found

    def sent(self, run: Run, metric: str) -> int:
        """How many figures of a name a run holds."""
        return len(self.client.get_metric_history(run.info.run_id, metric))


def stages_run(said: str) -> set[str]:
    """Which stages DVC ran, as it tells."""
    return set(re.findall(r"Running stage '(\w+)'", said))


@pytest.fixture(autouse=True)
def unchanged_branch(clone: Clone) -> Iterator[None]:
    """Whatever a test runs, the clone is left as it was committed."""
    yield
    clone.say("git", "checkout", "--quiet", "--force", "main")
    clone.dvc("checkout", "--quiet")


def test_the_first_repro_writes_metrics(clone: Clone) -> None:
    metrics = clone.metrics()
    assert set(metrics) == {"test"}, "one set of metrics in DVC's tables"
    assert finite(metrics)
    assert {"R1", "R5", "R10", "median_rank"} == set(metrics["test"]["i2t"]) == set(metrics["test"]["t2i"])
    assert {"mAP@R", "R-P"} == set(metrics["test"]["truth"]["i2t"])
    assert {"auc", "ap"} <= set(metrics["test"]["posterior"])


def test_a_run_in_mlflow_is_named_tagged_and_has_every_parameter(clone: Clone) -> None:
    run = clone.runs()[0]
    head = clone.say("git", "rev-parse", "HEAD~1").strip()
    assert run.data.tags["git.commit"] == head
    assert run.data.tags["mlflow.source.git.commit"] == head
    assert run.data.tags["data.name"] == "scenes"
    assert len(run.data.tags["data.digest"]) == len(run.data.tags["code.digest"]) == 64
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "seed 3407 · fne infonce"  # as committed: nothing varied
    expected = {"memory.size": "32", "sampler.cutdown": "0.2", "train.epochs": "2", "data.root": "null", "seed": "3407"}
    assert expected.items() <= run.data.params.items()


def test_a_run_in_mlflow_has_the_same_figures_as_the_files(clone: Clone) -> None:
    run = clone.runs()[0]
    test = clone.metrics()["test"]
    for side in ("i2t", "t2i"):
        for cutoff in ("R1", "R5", "R10"):
            assert run.data.metrics[f"test/{side}/{cutoff}"] == pytest.approx(test[side][cutoff], rel=1e-9)
    assert run.data.metrics["test/rsum"] == pytest.approx(test["rsum"], rel=1e-9)  # MLflow is told ten digits
    assert clone.sent(run, "test/rsum") == 1
    with open(clone.folder / "train/history.csv") as handle:
        history = list(csv.DictReader(handle))
    names = ("train/loss", "val/rsum", "sampler/threshold", "sampler/false_negative_share", "similarity/positive_mean")
    for name in names:
        tracked = clone.client.get_metric_history(run.info.run_id, name)
        rows = [
            (int(row["step"]), float(row[name])) for row in history if row[name] and math.isfinite(float(row[name]))
        ]
        assert sorted((metric.step, metric.value) for metric in tracked) == rows
        assert rows
    assert clone.sent(run, "val/rsum") == 2, "one validation an epoch"


def test_a_run_in_mlflow_keeps_the_figure_and_the_metrics(clone: Clone) -> None:
    run = clone.runs()[0]
    kept = {item.path for item in clone.client.list_artifacts(run.info.run_id)}
    assert {"similarity.png", "metrics.json"} <= kept
    artifacts = clone.folder / "mlartifacts" / run.info.run_id / "artifacts"
    assert (artifacts / "similarity.png").read_bytes() == (clone.folder / "evaluation/similarity.png").read_bytes()


def test_a_second_repro_runs_nothing(clone: Clone) -> None:
    before = len(clone.runs())
    assert stages_run(clone.dvc("repro")) == set()
    assert clone.dvc("status").strip().endswith("Data and pipelines are up to date.")
    assert len(clone.runs()) == before
    assert clone.say("git", "status", "--porcelain") == ""


def test_another_evaluation_in_a_temporary_copy_is_a_run_beside_the_first_in_the_same_store(clone: Clone) -> None:
    trained = clone.runs()[0]
    said = clone.dvc("exp", "run", "--temp", "--name", "apart", "-S", "evaluate.seed=7")
    assert stages_run(said) == {"evaluate", "audit"}
    assert clone.sent(trained, "test/rsum") == 1
    assert clone.client.get_run(trained.info.run_id).data.metrics == trained.data.metrics
    child = clone.run_with("evaluate.seed", "7")
    assert child.data.tags["dvc.experiment"] == "apart"
    assert child.data.tags["mlflow.parentRunId"] == trained.info.run_id
    assert child.data.metrics["test/rsum"] == pytest.approx(trained.data.metrics["test/rsum"])
    assert child.info.status == "FINISHED"
    assert {"similarity.png", "metrics.json"} <= {item.path for item in clone.client.list_artifacts(child.info.run_id)}
    row = next(row for row in clone.experiments() if row["Experiment"] == "apart")
    assert float(row["test.rsum"]) == pytest.approx(child.data.metrics["test/rsum"])
    assert clone.say("git", "status", "--porcelain") == "", "the workspace is not touched"


@contextmanager
def stopped_in_training(clone: Clone, *arguments: str, well: bool = True) -> Iterator[list[str]]:
    """`dvc` with its stage train stands still meanwhile, then ends; what it said is in the list after that."""
    said: list[str] = []
    before = set(clone.folder.glob(TRAINS))
    first = clone.start(*arguments)
    give_up = time.monotonic() + LONGEST
    while set(clone.folder.glob(TRAINS)) <= before:
        assert first.poll() is None
        assert time.monotonic() < give_up
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGSTOP)
    while _opens_the_store(clone):  # nobody else could open it then
        os.killpg(first.pid, signal.SIGCONT)
        time.sleep(0.05)
        os.killpg(first.pid, signal.SIGSTOP)
    try:
        yield said
    finally:
        os.killpg(first.pid, signal.SIGCONT)
        first.wait(LONGEST)
    said.append(clone.log.read_text())
    assert (first.returncode == 0) == well, said


def _opens_the_store(clone: Clone) -> bool:
    try:
        with FileLock(clone.folder / ".mlflow.lock", timeout=0):
            return False
    except Timeout:
        return True


def refused(clone: Clone, *arguments: str) -> str:
    """What `dvc` says when it refuses."""
    return clone.say(sys.executable, "-m", "dvc", *arguments, fails=True)


IN_TRAINING = (
    "stage train of a `dvc exp run` or `dvc repro` in this workspace; for several at once: dvc exp run --queue"
)


def test_beside_an_experiment_in_the_workspace_others_are_refused_or_queued(clone: Clone) -> None:
    assert PREPARING == WORKSPACE_STASH
    with stopped_in_training(clone, "exp", "run", "--name", "first", "-S", "sampler.cutdown=0.12", "train") as said:
        assert IN_TRAINING in refused(clone, "exp", "run", "-S", "sampler.cutdown=0.13")
        assert IN_TRAINING in refused(clone, "exp", "run", "--temp", "-S", "sampler.cutdown=0.13")
        assert "is busy, it is being blocked by" in refused(clone, "repro")
        clone.dvc("exp", "run", "--queue", "--name", "later", "-S", "sampler.cutdown=0.13")
        assert "detached HEAD" not in clone.say(sys.executable, "-m", "commands.compare"), (
            "the experiment is not killed"
        )
    assert "Ran experiment(s): first" in said[0]
    assert clone.run_with("sampler.cutdown", "0.12").info.status == "FINISHED"
    assert "later" in clone.dvc("queue", "status")
    clone.dvc("queue", "remove", "later")


def test_a_parameter_changed_while_its_stage_works_is_not_recorded_for_it(clone: Clone) -> None:
    write_params(clone.folder, **(SMALL | {"sampler__cutdown": 0.14}))
    with stopped_in_training(clone, "repro", "train", well=False) as said:
        write_params(clone.folder, **(SMALL | {"sampler__cutdown": 0.16}))
    assert "error: params.yaml: sampler.cutdown was 0.14 when stage train began and is 0.16 now" in said[0]
    assert "failed to reproduce 'train'" in said[0]
    assert "0.16" not in (clone.folder / "dvc.lock").read_text()
    write_params(clone.folder, **(SMALL | {"sampler__cutdown": 0.14}))
    assert "going on at epoch 3" in clone.dvc("repro", "train"), "with the old value back nothing is trained again"
    assert clone.run_with("sampler.cutdown", "0.14").info.status == "FINISHED"


def test_beside_a_repro_others_are_refused_and_it_goes_on_where_it_was(clone: Clone) -> None:
    write_params(clone.folder, **(SMALL | {"sampler__cutdown": 0.17}))
    params = (clone.folder / "params.yaml").read_text()
    with stopped_in_training(clone, "repro", "train"):
        assert "is busy, it is being blocked by" in refused(clone, "repro")
        assert IN_TRAINING in refused(clone, "exp", "run", "-S", "sampler.cutdown=0.13")
    assert (clone.folder / "params.yaml").read_text() == params
    assert clone.run_with("sampler.cutdown", "0.17").info.status == "FINISHED"
    assert clone.dvc("status", "train").strip().endswith("Data and pipelines are up to date.")


def test_the_plots_are_one_page_that_loads_nothing(clone: Clone) -> None:
    clone.dvc("plots", "show", "--out", "page")
    page = (clone.folder / "page/index.html").read_text()
    assert re.findall(r"<(?:script|link|iframe)\b[^>]*\b(?:src|href)\s*=", page) == []
    for title in ("Validation, sum of the six recalls", "Training loss", "Test recall by K"):
        assert title in page
    shutil.rmtree(clone.folder / "page")


def test_the_table_of_experiments_has_their_metrics(clone: Clone) -> None:
    workspace = next(row for row in clone.experiments() if row["rev"] == "workspace")
    assert float(workspace["test.rsum"]) == pytest.approx(clone.metrics()["test"]["rsum"])
    assert workspace["sampler.cutdown"] == "0.2"
