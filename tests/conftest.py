"""What holds for every test: few threads, one worker a file, and tests for a GPU only where there is one."""

from __future__ import annotations

import gc
import os
import shutil
from pathlib import Path
from typing import Any

# Before anything imports torch or numpy, which read these once.
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "agg")
gc.set_threshold(20_000)  # as in a stage: libraries make a million objects that stay
os.environ["SOURCE_DATE_EPOCH"] = "1800000000"  # a report that is made twice is one report, whatever the minute

import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

from pipeline.paths import LAST, MADE_BY  # noqa: E402
from tests.stages.running import EARLIER, STAGES, run_in, work_in  # noqa: E402

settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a busy machine
settings.load_profile("patient")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A worker a file; the tests of DVC are of two files, and of one worker, for they share a clone."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = str(super()._split_scope(nodeid))
            return "dvc" if file.endswith("dvc.py") else file

    return ByFile(config, log)


WHOLE = {Path(__file__).parent / room for room in ("benchmarks", "commands", "faults", "stages")}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark rooms as `whole`; the longest first, for workers that share them out; skip `gpu` without a CUDA device."""
    for item in items:
        if WHOLE & set(item.path.parents):
            item.add_marker("whole")
    items.sort(key=lambda item: item.get_closest_marker("end_to_end") is None)
    for_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not for_gpu:
        return
    import torch  # only if there are any

    if not torch.cuda.is_available():
        for item in for_gpu:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to run stages in, as a clone is."""
    return work_in(tmp_path / "clone", monkeypatch)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every stage has run, once more than somebody who left a file in each of their outputs."""
    folder = tmp_path_factory.mktemp("finished")
    for output in (*MADE_BY, LAST):
        if not output.suffix:
            (folder / output).mkdir(parents=True)
            (folder / output / EARLIER).write_text("of an earlier run")
    return run_in(folder, *STAGES)


@pytest.fixture
def ready(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, to work in."""
    shutil.copytree(finished, tmp_path / "clone")
    return work_in(tmp_path / "clone", monkeypatch)


@pytest.fixture(scope="session")
def towers_ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every stage before training has run, for training towers end to end."""
    return run_in(tmp_path_factory.mktemp("towers"), "download", "split", "base", "features", "evidence", "bank")


@pytest.fixture(scope="session")
def heads_ready(towers_ready: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for heads over frozen features."""
    folder = tmp_path_factory.mktemp("heads")
    shutil.copytree(towers_ready, folder, dirs_exist_ok=True)
    return run_in(folder, "features", model__train="heads")


@pytest.fixture
def towers_clone(towers_ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder for towers, to work in."""
    shutil.copytree(towers_ready, tmp_path / "clone")
    return work_in(tmp_path / "clone", monkeypatch)


@pytest.fixture
def heads_clone(heads_ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder for heads, to work in."""
    shutil.copytree(heads_ready, tmp_path / "clone")
    return work_in(tmp_path / "clone", monkeypatch)
