"""Stage `audit`: whose pairs its two lists cover, and what they come from."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas
import pytest

from pipeline.retrieval.published import published
from tests.paper import PAPER
from tests.stages.running import refused, run, write_tiny_params


def lists() -> list[pandas.DataFrame]:
    return [pandas.read_csv(f"report/{name}.csv") for name in ("false_negatives", "noisy_pairs")]


@pytest.mark.parametrize(("chosen", "covered"), [("all", {"train", "val", "test"}), ("train", {"train"})])
def test_the_lists_cover_the_chosen_splits(chosen: str, covered: set[str], ready: Path) -> None:
    write_tiny_params(ready, audit__split=chosen, audit__noisy_pairs=200)
    said = run("audit")
    found, wrong = lists()
    assert set(found["split"]) <= covered == set(wrong["split"])
    assert wrong["trust"].is_monotonic_increasing
    assert found["posterior"].is_monotonic_decreasing
    assert found[["words", "phrases", "trust"]].notna().all(axis=None)
    assert (found["similarity"].notna() == (found["split"] == "test")).all(), "only test is encoded"
    first = min(20, len(found))
    top = "listed; at the top of the ranking"
    assert f"{len(found)} possible false negatives {top} {found['truth'][:first].sum()} of {first}" in said
    assert f"{len(wrong)} suspects {top} 0 of 20, 0 of 60" in said, "scenes without noise have no wrong pairs"


def test_the_prior_is_the_runs_only_where_the_run_uses_the_evidence(ready: Path) -> None:
    run("audit")
    estimated = lists()[0]["posterior"].max()
    assert "(estimated)" in Path("report/index.html").read_text()
    write_tiny_params(ready, sampler__posterior="evidence", sampler__prior=1e6)
    run("audit")
    assert "one pair in 1000000 matches (sampler.prior)" in Path("report/index.html").read_text()
    assert lists()[0]["posterior"].max() < estimated


def test_without_evidence_the_lists_come_from_the_trained_similarity_on_test(ready: Path) -> None:
    write_tiny_params(ready, evidence__kinds=[], **{f"sampler__{name}": value for name, value in PAPER.items()})
    run("evidence", "audit")
    found, wrong = lists()
    assert set(found["split"]) == set(wrong["split"]) == {"test"}
    assert set(wrong["measure"]) == {"similarity"}
    assert found["trust"].isna().all()
    assert "there is no evidence (evidence.kinds)" in Path("report/index.html").read_text()


def test_published_rows_have_their_sum_also_where_only_the_sum_was_published(
    ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [*published("flickr30k"), *published("mscoco", 5)]
    monkeypatch.setattr("pipeline.retrieval.published.published", lambda *_: rows)
    run("audit")
    shown = re.findall(r'<tr class="published">(.*?)</tr>', Path("report/index.html").read_text(), re.DOTALL)
    sums = [re.findall("<td>(.*?)</td>", row)[-1] for row in shown]
    assert sums == ["" if row.rsum is None else f"{row.rsum:.1f}" for row in rows]
    assert {"544.2", "526.3", ""} <= set(sums), "six recalls, a sum alone, and a recall known to be wrong"


def test_a_truth_that_ranks_one_direction_alone_is_shown(ready: Path) -> None:
    metrics = json.loads((ready / "metrics.json").read_text())
    del metrics["test"]["truth"]["t2i"]
    (ready / "metrics.json").write_text(json.dumps(metrics))
    run("audit")
    assert (ready / "report/index.html").read_text().count("R-precision") == 1


def test_evidence_about_another_split_is_refused(ready: Path) -> None:
    (ready / "evidence/train/pairs.safetensors").write_bytes((ready / "evidence/val/pairs.safetensors").read_bytes())
    assert "evidence/train/pairs.safetensors: not of the 12 images and 60 captions of train.json" in refused("audit")


@pytest.mark.parametrize(("posterior", "prior"), [("evidence", "estimated"), ("similarity", 100.0)])
def test_the_chart_says_where_the_sampler_had_another_rule(posterior: str, prior: object, ready: Path) -> None:
    write_tiny_params(ready, sampler__posterior=posterior, sampler__prior=prior)
    run("audit")
    said = "drawn here are those of FNE&#39;s own rule" in Path("report/index.html").read_text()
    assert said == (posterior == "evidence")
    write_tiny_params(ready, sampler__posterior=posterior, sampler__prior=prior, sampler__strategy="all")
    run("audit")
    assert "(sampler.strategy: all) has neither this weight nor this cut-down" in Path("report/index.html").read_text()


def test_its_last_lines_compare_the_run_with_the_previous_one(ready: Path) -> None:
    run("train", "evaluate")
    first = run("audit").splitlines()
    assert "compared with" not in "".join(first), "there is no earlier run"
    assert first[-2].startswith("report: report/index.html (")
    write_tiny_params(ready, train__lr=0.005)
    run("train", "evaluate")
    *_, compared, _, shown = run("audit").splitlines()
    assert "→ 0.005; test rsum " in compared
    assert compared.startswith(f"compared with {first[-1].removeprefix('run: ').partition(';')[0]}: train.lr ")
    assert shown.endswith("`make ui` shows it among the others")
