"""Stages as several processes make what one makes, and workers of a queue each take a GPU of their own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas
import pytest
import torch
from safetensors.torch import load_file

from pipeline.errors import InputError
from stages import launch
from tests.stages.running import OUTSIDE, ROOT, STAGES, refused, run, run_in, work_in, write_tiny_params

HOLD = """
import os, sys
from stages.launch import take_gpus
take_gpus(int(sys.argv[1]))
print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
sys.stdin.read()
"""
TWO = """
import click
from stages.command import stage
from stages.launch import started_together
click.command()(stage(lambda: started_together("told", 2)))()
"""
NPC = {
    "train__epochs": 2,
    "pairs__weighting": "npc",
    "pairs__bank_epochs": 1,
    "pairs__batch_size": 7,
    "pairs__clean_threshold": 0.3,
    "evidence__kinds": ["words", "regression"],
}


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes, split and small towers; features and bank of one process. Heads, so that features are computed."""
    return run_in(tmp_path_factory.mktemp("ready"), *STAGES[:6], model__train="heads", **NPC)


def features_by_torchrun(monkeypatch: pytest.MonkeyPatch) -> subprocess.CompletedProcess[str]:
    """Stage `features` as two processes that a user starts."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*torchrun, "-m", "stages.features"]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)


@pytest.mark.end_to_end
def test_two_processes_make_the_features_the_evidence_and_the_bank_of_one(
    ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The features started by torchrun from outside, evidence and bank as params.yaml asks."""
    shutil.copytree(ready, tmp_path / "two")
    work_in(tmp_path / "two", monkeypatch)
    for made in ("features", "evidence", "bank"):
        shutil.rmtree(made)
    write_tiny_params(Path(), model__train="heads", launch__processes=2, **NPC)
    said = features_by_torchrun(monkeypatch)
    assert said.returncode == 0, said.stderr
    assert "12/60" in said.stdout
    assert Path("features/features.json").read_text() == (ready / "features/features.json").read_text()
    for path in sorted(Path("features").rglob("*.safetensors")):
        torch.testing.assert_close(load_file(path), load_file(ready / path))
    run("evidence", "bank")  # this process launches the two
    found = {path.relative_to("evidence") for path in Path("evidence").rglob("*.safetensors")}
    assert found == {path.relative_to(ready / "evidence") for path in (ready / "evidence").rglob("*.safetensors")}
    assert {Path("train/pairs.safetensors"), Path("train/images-00000.safetensors")} <= found
    for path in found:
        torch.testing.assert_close(
            load_file("evidence" / path), load_file(ready / "evidence" / path), rtol=1e-4, atol=1e-4
        )

    bank, of_one = (pandas.read_parquet(folder / "bank/pairs.parquet") for folder in (Path(), ready))
    pandas.testing.assert_frame_equal(bank, of_one, rtol=1e-4)


@pytest.fixture
def holding(tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that hold GPUs until their input ends; killed at the end."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def hold(processes: list[subprocess.Popen[str]], folder: Path, gpus: str, count: int) -> subprocess.Popen[str]:
    environment = os.environ | {"FNE_GPUS": gpus, "TMPDIR": str(folder), "PYTHONPATH": str(ROOT)}
    environment = {name: value for name, value in environment.items() if name != "WORLD_SIZE"}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(count)],
        env=environment,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    processes.append(process)
    return process


def line(stream: object) -> str:
    return stream.readline().strip()  # type: ignore[attr-defined]


def test_each_worker_takes_its_own_gpu_and_a_third_waits_for_one(
    holding: list[subprocess.Popen[str]], tmp_path: Path
) -> None:
    first, second = (hold(holding, tmp_path, "0,1", 1) for _ in range(2))
    assert {line(first.stdout), line(second.stdout)} == {"0", "1"}
    third = hold(holding, tmp_path, "0,1", 1)
    assert line(third.stderr) == "waiting for 1 of the GPUs 0,1"
    first.kill()  # as a crash would
    assert line(third.stdout) in ("0", "1")


def test_a_training_on_two_gpus_takes_both_or_none(holding: list[subprocess.Popen[str]], tmp_path: Path) -> None:
    assert line(hold(holding, tmp_path, "0,1", 1).stdout) == "0"
    both = hold(holding, tmp_path, "0,1", 2)
    assert line(both.stderr) == "waiting for 2 of the GPUs 0,1"
    assert line(hold(holding, tmp_path, "0,1", 1).stdout) == "1"  # it holds none while it waits
    for process in (holding[0], holding[2]):
        process.kill()
    assert line(both.stdout) == "0,1"


@pytest.mark.parametrize(
    ("named", "said"),
    [
        *((named, "expected different numbers or UUIDs of GPUs") for named in ("0,0", "", "0,,1", "../x")),
        ("0,1", r"names 2 GPUs, launch\.processes asks for 3"),
    ],
)
def test_gpus_that_cannot_be_meant_or_are_too_few_are_refused(
    named: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FNE_GPUS", named)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(InputError, match=said):
        launch.take_gpus(3)


def test_without_fne_gpus_nothing_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FNE_GPUS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    launch.take_gpus(1)
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


@pytest.mark.end_to_end
def test_two_processes_report_the_same_error_once(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiny_params(clone, train__lr=-1.0)
    answer = features_by_torchrun(monkeypatch)
    assert answer.returncode != 0
    assert answer.stderr.count("error: params.yaml: train.lr = -1.0: ") == 1


def test_an_error_of_another_process_alone_is_reported_too(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiny_params(clone, train__lr=-1.0)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr("stages.command.FIRST_REPORTS", 0.01)
    assert "train.lr = -1.0" in refused("features")


@pytest.fixture
def of_two(tmp_path: Path) -> Callable[[str], subprocess.Popen[str]]:
    """Starts a stage of two processes that do what it is told."""
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages/__init__.py").touch()

    def start(does: str) -> subprocess.Popen[str]:
        (tmp_path / "stages/told.py").write_text(f"import os, signal, time\n{does}\n")
        environment = {name: value for name, value in os.environ.items() if name not in OUTSIDE}
        return subprocess.Popen(
            [sys.executable, "-P", "-c", TWO],  # -P: this process's own `stages` is the repository's
            cwd=tmp_path,
            env=environment | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    return start


@pytest.mark.end_to_end
def test_a_process_that_was_killed_is_named(of_two: Callable[[str], subprocess.Popen[str]]) -> None:
    process = of_two("os.kill(os.getpid(), signal.SIGKILL) if os.environ['RANK'] == '1' else time.sleep(600)")
    said, errors = process.communicate(timeout=300)
    assert (process.returncode, said) == (1, "")
    assert errors.startswith("error: process 2 of 2 was killed by SIGKILL, ")
    assert errors.count("\n") == 1


@pytest.mark.end_to_end
def test_processes_that_the_launcher_ends_are_not_reported_as_killed(
    of_two: Callable[[str], subprocess.Popen[str]],
) -> None:
    process = of_two("raise SystemExit(3) if os.environ['RANK'] == '0' else time.sleep(600)")
    assert process.communicate(timeout=300) == ("", "")
    assert process.returncode == 3


@pytest.mark.end_to_end
def test_a_signal_ends_several_processes_as_it_ends_one(of_two: Callable[[str], subprocess.Popen[str]]) -> None:
    process = of_two("print(f'{os.getpid()}\\n', end='', flush=True); time.sleep(600)")
    pids = [int(line(process.stdout)) for _ in range(2)]
    process.terminate()
    said, errors = process.communicate(timeout=300)
    assert (process.returncode, said, errors) == (128 + signal.SIGTERM, "", "")
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
