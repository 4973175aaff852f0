"""Runs become rows, rows become tables."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from PIL import Image

from pipeline.comparison.conditions import parse_condition
from pipeline.comparison.doubts import doubts
from pipeline.comparison.figure import axis_of, comparison_figure
from pipeline.comparison.rows import CODE, DATA, Row, compared, grouped, varying_names
from pipeline.comparison.table import blocks, cells, comma_separated, explanation, latex, markdown, title
from pipeline.errors import InputError
from pipeline.params import dotted, load_params

ROOT = Path(__file__).parents[2]
METRICS = ["test/rsum", "test/i2t/R1"]
PARAMS = {"sampler.strategy": "fne", "sampler.cutdown": "0.2", "memory.size": "8", "evaluate.folds": "1"}


def run(
    seed: int, rsum: float, run_id: str = "", data: str = "one data set", code: str = "one version", **changes: str
) -> dict[str, Any]:
    params = PARAMS | {name.replace("__", "."): value for name, value in changes.items()} | {"seed": str(seed)}
    metrics = {"test/rsum": rsum, "test/i2t/R1": rsum / 10}
    return {"run_id": run_id, "params": params, "metrics": metrics, "tags": {DATA: data, CODE: code}}


def no_queries(_run_id: str) -> pandas.DataFrame | None:
    return None


def rows(runs: list[dict[str, Any]], *baseline: str, ranks: Any = no_queries) -> list[Row]:
    known = {name for one in runs for name in one["params"]}
    return compared(grouped(runs), [parse_condition(text, known) for text in baseline], METRICS, ranks)


FNE_HARDEST = [
    *(run(seed, 300 + seed) for seed in (1, 2, 3)),
    *(run(seed, 280 + 2 * seed, sampler__strategy="hardest") for seed in (1, 2, 3)),
]


def test_runs_that_differ_in_the_seed_alone_are_one_row() -> None:
    fne, hardest = grouped(FNE_HARDEST)
    assert list(fne.runs) == ["1", "2", "3"]
    assert fne.mean("test/rsum") == 302
    assert fne.deviation("test/rsum") == 1
    assert hardest.mean("test/rsum") == 284


def test_only_what_varies_is_named() -> None:
    assert varying_names(grouped(FNE_HARDEST)) == ["sampler.strategy"]
    assert varying_names(grouped([run(1, 300), run(2, 300, launch__processes="4", sampler__cutdown="0.20")])) == []


ALL_PARAMS = {name: str(value) for name, value in dotted(load_params(ROOT / "params.yaml")).items()}
NO_RESULT = {
    "data.mirror": "another address of the same files",
    "train.workers": "the batches are the same",
    "evaluate.batch_size": "the vectors are the same",
    "tracking.experiment": "a name",
    "tracking.model": "a name",
    "tracking.system_metrics": "records the machine alone",
    "launch.processes": "the result is the same on any number",
}


@pytest.mark.parametrize("name", ALL_PARAMS)
def test_runs_that_differ_in_any_other_parameter_are_not_seeds_of_one(name: str) -> None:
    one = {"params": ALL_PARAMS | {"seed": "1"}, "tags": {DATA: "a", CODE: "b"}}
    other = one | {"params": one["params"] | {"seed": "2", name: "another"}}
    same = name == "seed" or name in NO_RESULT
    assert len(grouped([one, other])) == (1 if same else 2)
    assert varying_names(grouped([one, other])) == ([] if same else [name])


@pytest.mark.parametrize(("tag", "changes"), [(DATA, {"data": "other"}), (CODE, {"code": "other"})])
def test_runs_on_other_data_or_of_other_code_are_not_seeds_of_one(tag: str, changes: dict[str, str]) -> None:
    found = rows([run(1, 300), run(2, 310), run(2, 200, **changes)])
    assert sorted((row.group.mean("test/rsum"), len(row.group.runs)) for row in found) == [(200, 1), (305, 2)]
    assert [list(row.varying) for row in found] == [[tag], [tag]]


def test_a_run_without_these_tags_is_no_seed_of_one_that_has_them() -> None:
    assert len(grouped([run(1, 300), run(2, 310) | {"tags": {}}])) == 2


def test_the_digest_of_the_data_is_shown_only_where_no_parameter_explains_it() -> None:
    noisy = run(1, 200, data="noisy", data__noise__ratio="0.4")
    assert varying_names(grouped([run(1, 300), noisy])) == ["data.noise.ratio"]


@pytest.mark.parametrize("name", ["memory__size", "code"])
def test_of_several_baselines_each_row_takes_that_of_its_own_parameters_and_code(name: str) -> None:
    runs = [
        run(1, rsum, sampler__strategy=strategy, **{name: value})
        for value, strategy, rsum in (("0", "fne", 1), ("0", "hardest", 2), ("8", "fne", 30), ("8", "hardest", 40))
    ]
    found = {frozenset(row.varying.values()): row.differences for row in rows(runs, "sampler.strategy=hardest")}
    assert {values: told["test/rsum"].value for values, told in found.items() if told} == {
        frozenset({"fne", "0"}): -1,
        frozenset({"fne", "8"}): -10,
    }


def test_the_newest_of_equal_runs_wins() -> None:
    (group,) = grouped([run(1, 310), run(1, 300)])
    assert group.values("test/rsum") == {"1": 310}


def test_rows_stand_in_the_order_of_their_numbers() -> None:
    groups = grouped([run(1, 300, memory__size=size) for size in ("1024", "64", "null", "512")])
    assert [group.params["memory.size"] for group in groups] == ["64", "512", "1024", "null"]


def test_without_ranks_the_difference_is_paired_over_common_seeds() -> None:
    runs = [*FNE_HARDEST, run(4, 1000)]
    fne, hardest = rows(runs, "sampler.strategy=hardest")
    difference = fne.differences["test/rsum"]
    assert difference.value == pytest.approx(np.mean([301 - 282, 302 - 284, 303 - 286]))
    assert difference.method == "seeds"
    assert hardest.is_baseline
    assert hardest.differences == {}


def test_with_ranks_it_is_over_the_queries() -> None:
    def queries(run_id: str) -> pandas.DataFrame:
        sides = {"i2t": [0, 3, int(run_id)], "t2i": [0, 0, 20]}
        parts = [
            {"direction": side, "query": [0, 1, 2], "image": [0, 1, 2], "fold": 0, "rank": sides[side]}
            for side in sides
        ]
        return pandas.concat([pandas.DataFrame(part) for part in parts])

    runs = [run(1, 0, "0"), run(1, 0, "30", sampler__strategy="hardest")]
    fne, _ = rows(runs, "sampler.strategy=hardest", ranks=queries)
    assert fne.differences["test/rsum"].value == pytest.approx(100)
    assert fne.differences["test/rsum"].method == "queries"
    assert not any("test splits" in said for said in doubts(rows(runs)))
    for one, split in zip(runs, ("one", "another"), strict=True):  # of one size: the row numbers are the same
        one["test"] = split
    found = rows(runs, "sampler.strategy=hardest", ranks=queries)
    assert found[0].differences["test/rsum"].method == "none"
    assert any("judged on different test splits" in said for said in doubts(found))


def test_a_baseline_that_is_not_there_is_told_with_what_is() -> None:
    with pytest.raises(InputError, match=r"sampler\.strategy is fne, hardest"):
        rows(FNE_HARDEST, "sampler.strategy=random")


def test_a_baseline_without_a_partner_is_refused() -> None:
    runs = [run(1, 1), run(2, 2, sampler__strategy="hardest")]
    with pytest.raises(InputError, match="no run shares its other parameters and a seed"):
        rows(runs, "sampler.strategy=hardest")


def test_the_table_has_means_deviations_and_the_first_difference() -> None:
    table = cells(rows(FNE_HARDEST, "sampler.strategy=hardest"), METRICS)
    assert table[0] == ["sampler.strategy", "seeds", "rsum", "Δ rsum", "i2t R@1"]
    assert table[1][:3] == ["fne", "3", "302.0 ± 1.0"]
    assert table[1][3].startswith("+18.0 clear {+15.5, +20.5}")
    assert table[2] == ["hardest", "3", "284.0 ± 2.0", "baseline", "28.4 ± 0.2"]


def test_what_the_brackets_mean_is_said() -> None:
    assert any("t-interval over the seeds" in said for said in explanation(rows(FNE_HARDEST, "sampler.strategy=fne")))
    assert explanation(rows(FNE_HARDEST)) == ["Mean ± standard deviation over the seeds."]


def test_csv_holds_every_figure_unrounded() -> None:
    (fne, hardest) = csv.DictReader(
        io.StringIO(comma_separated(rows(FNE_HARDEST, "sampler.strategy=hardest"), METRICS))
    )
    assert fne["seeds"] == "1 2 3"
    assert float(fne["test/i2t/R1 difference"]) == pytest.approx(1.8)
    assert float(fne["test/rsum low"]) < 18 < float(fne["test/rsum high"])
    assert hardest["test/rsum difference"] == ""


def test_markup_in_a_parameter_stays_text() -> None:
    found = rows([run(1, 1, model__text="a|b_c&d"), run(1, 2, model__text="plain")])
    assert "a\\|b_c&d" in markdown(cells(found, METRICS))
    assert r"a|b\_c\&d & 1 &" in latex(cells(found, METRICS))


def test_a_wide_table_is_cut_and_repeats_its_parameters() -> None:
    table = cells(rows(FNE_HARDEST), METRICS)
    assert blocks(table, 200) == [table]
    parts = blocks(table, 40)
    assert [part[0] for part in parts] == [["sampler.strategy", "seeds", "rsum"], ["sampler.strategy", "i2t R@1"]]


@pytest.mark.parametrize(
    ("metric", "shown"), [("test/i2t/R10", "i2t R@10"), ("last/truth/i2t/mAP_at_R", "last truth i2t mAP@R")]
)
def test_titles_read_as_in_the_field(metric: str, shown: str) -> None:
    assert title(metric) == shown


def test_the_plot_is_against_the_only_number_that_varies(tmp_path: Path) -> None:
    runs = [
        run(s, 300 + s, sampler__cutdown=c, sampler__strategy=m) for s in (1, 2) for c in ("0.1", "0.3") for m in "ab"
    ]
    found = rows(runs)
    assert axis_of(found) == "sampler.cutdown"
    for name in ("a.png", "a.svg", "b.svg"):
        comparison_figure(tmp_path / name, found, "test/rsum", "sampler.cutdown")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_a_plot_of_runs_that_differ_in_much_shows_what_tells_them_apart(tmp_path: Path) -> None:
    """As those of an older version, which lack parameters."""
    much = {f"audit__a_parameter_{number}": "1" for number in range(40)}
    runs = [run(1, 300, **much), run(1, 310, train__epochs="5"), run(1, 320, train__epochs="6", sampler__cutdown="0.3")]
    for name in ("a.svg", "a.png"):
        comparison_figure(tmp_path / name, rows(runs), "test/rsum", "sampler.cutdown")
    drawn = (tmp_path / "a.svg").read_text()
    assert "<!-- train.epochs 5, audit.a_parameter_0 –" in drawn
    assert "<!-- train.epochs 6, audit.a_parameter_0 –" in drawn
    with Image.open(tmp_path / "a.png") as picture:
        pixels = np.asarray(picture.convert("L"))
    assert (pixels[:, [0, 1, -2, -1]] == 255).all(), "nothing is cut off at the sides"


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_what_reads_as_a_formula_is_drawn_as_text(ending: str, tmp_path: Path) -> None:
    r"""Matplotlib ends in ValueError at a formula that it does not know, such as `$\q$`."""
    formula = r"/x/$\q$/y"
    runs = [
        run(1, number, model__image=root, **{r"model__$\q$": text})
        for number, (root, text) in enumerate([("a", "b"), (formula, "b"), ("a", formula)])
    ]
    for one in runs:
        one["metrics"][formula] = 1.0
    found = compared(grouped(runs), [], [formula], no_queries)
    assert set(found[0].varying) == {"model.image", r"model.$\q$"}
    for axis in found[0].varying:
        comparison_figure(tmp_path / f"a.{ending}", found, formula, axis)
    assert (tmp_path / f"a.{ending}").stat().st_size > 0


def test_an_axis_that_is_not_clear_is_asked_for() -> None:
    several: list[Mapping[str, Any]] = [run(1, 1), run(1, 2, memory__size="16", sampler__cutdown="0.1")]
    with pytest.raises(InputError, match=r"name one to plot against by --x: memory\.size, sampler\.cutdown"):
        axis_of(compared(grouped(several), [], METRICS, no_queries))
    with pytest.raises(InputError, match="nothing varies"):
        axis_of(rows(FNE_HARDEST[:3]))
