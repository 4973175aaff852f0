"""`python -m commands.compare` on a store with runs."""

from __future__ import annotations

from pathlib import Path

import pandas
import pytest
from click.testing import CliRunner, Result

from commands.compare import main
from pipeline.tracking import Tracker
from tests.stages.running import work_in, write_tiny_params

PARAMS = {"memory.size": 8, "data.name": "scenes"}


def add_run(name: str, strategy: str, seed: int, rsum: float, *, ranks: int | None) -> None:
    """A finished run; `ranks`: the rank that each of its ten queries a direction has."""
    tracker = Tracker("ours")
    params = PARAMS | {"sampler.strategy": strategy, "seed": seed}
    tracker.begin(f"{strategy} {seed} {rsum}", name, params, {"dvc.experiment": name})
    tracker.log_rows([{"step": 1, "test/rsum": rsum, "test/i2t/R1": rsum / 6, "test/t2i/R1": rsum / 6}])
    if ranks is not None:
        table = [
            {"direction": side, "query": query, "image": query, "fold": 0, "rank": ranks}
            for side in ("i2t", "t2i")
            for query in range(10)
        ]
        pandas.DataFrame(table).to_parquet("ranks.parquet")
        tracker.artifact(Path("ranks.parquet"))
    tracker.finish()
    assert not tracker.failed


@pytest.fixture(scope="module")
def _store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compared")
    with pytest.MonkeyPatch.context() as monkeypatch:
        work_in(folder, monkeypatch)
        write_tiny_params(folder, tracking__experiment="ours")
        for seed in (1, 2):
            add_run(f"soft-{seed}", "fne", seed, 600, ranks=0)
            add_run(f"hard-{seed}", "hardest", seed, 400, ranks=4)
            add_run(f"blind-{seed}", "random", seed, 100 + seed, ranks=None)
    return folder


@pytest.fixture
def store(_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(_store)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return _store


def compare(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["--metric", "test/rsum", *arguments], catch_exceptions=False)


def lines(result: Result) -> list[list[str]]:
    assert result.exit_code == 0, result.output
    return [line.split("\t") for line in result.stdout.splitlines()]


def test_seeds_become_rows_with_differences_over_queries_where_ranks_are_kept(store: Path) -> None:
    result = compare("--baseline", "sampler.strategy=hardest")
    assert lines(result) == [
        ["sampler.strategy", "seeds", "rsum", "Δ rsum"],
        ["fne", "2", "600.0 ± 0.0", "+200.0 clear [+200.0, +200.0] {+200.0, +200.0}"],
        ["hardest", "2", "400.0 ± 0.0", "baseline"],
        ["random", "2", "101.5 ± 0.7", "−298.5 clear {−304.9, −292.1}"],
    ]
    assert "6 runs, 3 rows." in result.stderr
    assert "clear: the wider of the intervals does not contain 0" in result.stderr
    assert "Warning" not in result.stderr and "Same test result" not in result.stderr


def test_runs_are_picked_by_name_and_by_parameter(store: Path) -> None:
    assert lines(compare("--name", "soft-*")) == [["seeds", "rsum"], ["2", "600.0 ± 0.0"]]
    picked = compare("--where", "sampler.strategy=fne,random", "--where", "seed>1")
    assert [line[0] for line in lines(picked)] == ["sampler.strategy", "fne", "random"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--experiment", "theirs"], "experiments there: ours"),
        (["--name", "nothing"], "names there: blind-1, blind-2, hard-1, hard-2, soft-1, soft-2"),
        (["--where", "memory.size=9"], "fits none of 6 runs; memory.size is 8"),
        (["--where", "memory.sise=9"], "the nearest one is memory.size"),
        (["--metric", "test/R7"], "none of these runs has it; they have test/i2t/R1, test/rsum, test/t2i/R1"),
        (["--plot", "a.pdf"], "expected a name that ends in .png or .svg"),
        (["--plot", "a.png", "--x", "seed"], "does not vary among these runs; these do: sampler.strategy"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_is_there(arguments: list[str], said: str, store: Path) -> None:
    result = compare(*arguments)
    assert result.exit_code == 1
    assert said in result.output
    assert result.output.startswith("error: ")
    assert not (store / "a.png").exists()


def test_other_seeds_and_equal_results_are_said_and_the_best_is_first(clone: Path) -> None:
    write_tiny_params(clone, tracking__experiment="ours")
    for strategy, seed, rsum in (("fne", 1, 100), ("fne", 2, 110), ("hardest", 1, 100)):
        add_run("any", strategy, seed, rsum, ranks=None)
    said = compare().stderr
    assert "Warning: the rows have different seeds" in said
    assert "Same test result for every common seed: sampler.strategy fne and sampler.strategy hardest" in said
    add_run("any", "hardest", 2, 112, ranks=None)
    assert [line[0] for line in lines(compare())] == ["sampler.strategy", "hardest", "fne"], "the best first"
    said = compare().stderr
    assert "Warning" not in said
    assert "Same test result" not in said


def test_files_for_a_paper(store: Path) -> None:
    compare("--csv", "t.csv", "--markdown", "t.md", "--latex", "t.tex", "--plot", "t.svg")
    assert "sampler.strategy,seeds,test/rsum mean" in (store / "t.csv").read_text()
    assert "| fne | 2 | 600.0 ± 0.0 |" in (store / "t.md").read_text()
    assert r"fne & 2 & 600.0 $\pm$ 0.0 \\" in (store / "t.tex").read_text()
    assert "<svg" in (store / "t.svg").read_text()


def test_reading_makes_no_store(clone: Path) -> None:
    (clone / "mlflow.db").unlink()
    write_tiny_params(clone)
    assert "no finished run" in compare().output
    assert not (clone / "mlflow.db").exists()
