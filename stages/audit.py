"""Stage `audit`: the report, report/index.html and its tables."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

import click

from stages.command import stage

if TYPE_CHECKING:
    from pipeline.params import Params
    from pipeline.report.audit import Findings
    from pipeline.report.curves import Chart
    from pipeline.report.gallery import Embedded
    from pipeline.report.page import Contents
    from pipeline.report.retrieval import Against
    from pipeline.training.record import Run


@click.command(name="audit")
@stage
def main() -> None:
    """Write a page of pictures about the trained model: retrievals, false negatives, suspected pairs."""
    from pipeline.params import load_params

    params = load_params()  # before the heavy imports: a misspelt key is reported at once
    from pipeline.paths import IMAGES, REPORT
    from pipeline.report.audit import said, write_report
    from pipeline.tracking import Tracker, renew_view

    tracker = Tracker(params.tracking.experiment)  # before the work: a deleted experiment is refused at once
    contents, found, key = audited_run(params, f"dvc {'exp run' if 'DVC_EXP_NAME' in os.environ else 'repro'} audit")
    size = write_report(REPORT, contents, found, IMAGES, params.audit.thumbnail)
    named = told = ""
    with tracker:
        if tracker.find_evaluation(key):
            for path in sorted(REPORT.iterdir()):
                tracker.artifact(path, "report")
            named, told = tracker.outcome()
            tracker.finish()
            renew_view(params.tracking.experiment)
    for line in said(found):
        click.echo(line)
    if told:
        click.echo(told)
    click.echo(f"report: {REPORT / 'index.html'} ({size / 1e6:.1f} MB)")
    if named:
        click.echo(f"run: {named}; `make ui` shows it among the others")


def audited_run(params: Params, command: str, other: Against | None = None) -> tuple[Contents, Findings, str]:
    """The page of the run in this workspace, what it found, and the key of its evaluation.

    `other`: another run, compared with this one.
    """
    from pipeline.data.splits.format import SPLITS, read_split
    from pipeline.data.splits.judgment_file import read_judged
    from pipeline.data.splits.truth_file import read_noise, read_truth
    from pipeline.evaluation.judgment import posterior
    from pipeline.files import read_record
    from pipeline.params import dotted
    from pipeline.paths import EVIDENCE, INTERVALS, RUN, SOURCE, SPLIT
    from pipeline.report.audit import findings, made_by, statements
    from pipeline.report.evidence import read_evidence
    from pipeline.report.false_negatives import by_similarity
    from pipeline.report.gallery import read_embedded
    from pipeline.report.labels import Labelled
    from pipeline.report.page import Contents, Evaluated
    from pipeline.report.recall_table import read_metrics
    from pipeline.report.retrieval import retrieval_of
    from pipeline.report.suspects import suspected_pairs, true_images
    from pipeline.retrieval.published import published
    from pipeline.tracking import committed_params, origin_tags, run_name
    from pipeline.training.record import read_run

    run, metrics = read_run(RUN), read_metrics()
    labels = {name: None if params.evaluate.truth == "none" else read_truth(SPLIT, name) for name in SPLITS}
    judged = {name: read_judged(SPLIT, name) for name in SPLITS}
    embedded, key = read_embedded(SPLIT / "test.json", labels["test"], judged=judged["test"])
    splits = {name: embedded.split if name == "test" else read_split(SPLIT / f"{name}.json") for name in SPLITS}
    labelled = {name: Labelled(splits[name], labels[name], judged[name]) for name in SPLITS} | {"test": embedded}

    evidence = read_evidence(EVIDENCE, splits, params.audit.split, params.sampler)
    chance = partial(posterior, moment=run.best, sampler=run.sampler)
    known = true_images(splits, read_noise(SPLIT), clean=params.data.name == "scenes")
    worst = suspected_pairs(splits, evidence.trust, params.audit.noisy_pairs, known, embedded)
    found = findings(
        evidence, labelled, params.audit, worst, known, lambda count: by_similarity(embedded, "test", chance, count)
    )
    charts, note, quality = _charts(params, embedded, run)
    contents = Contents(
        title=f"Audit: {read_record(SOURCE, 'download')['title']}",
        statements=statements(found),
        splits=labelled,
        truth=next((truth.how for truth in labels.values() if truth is not None), ""),
        false_negatives=found.false_negatives,
        suspects=found.suspects,
        footer=made_by(
            command,
            run_name(dotted(params), committed_params(), os.environ.get("DVC_EXP_NAME", "")),
            origin_tags().get("git.commit", ""),
        ),
        evaluated=Evaluated(
            metrics=metrics,
            intervals=read_record(INTERVALS) if INTERVALS.exists() else {},
            published=[
                {"method": row.method, **row.recalls, "rsum": row.rsum}
                | {"noise": row.noise, "source": row.source, "remark": row.remark}
                for row in published(params.data.name, params.evaluate.folds)
            ],
            charts=charts,
            chart_note=note,
        ),
        retrieval=retrieval_of("test", embedded, "the trained model", params.audit.queries, quality),
        against=other,
    )
    return contents, found, key


def _charts(params: Params, embedded: Embedded, run: Run) -> tuple[list[Chart], str, list[Chart]]:
    """The charts of the training with a note, and those of the test split's vectors."""
    from pipeline.evaluation.encoded import Encoded
    from pipeline.evaluation.judgment import posterior
    from pipeline.evaluation.unpaired import unpaired_pairs
    from pipeline.evidence.table import match_chance
    from pipeline.paths import EVIDENCE, HISTORY, SIMILARITY, SPLIT, VALIDATION
    from pipeline.report.curves import SIMILARITY_COLUMNS, rule_note, run_charts
    from pipeline.report.maps import embedding_map, precision_recall
    from pipeline.training.record import read_rows

    curves = read_rows(SIMILARITY, SIMILARITY_COLUMNS)
    charts = run_charts(curves, read_rows(HISTORY), read_rows(VALIDATION), run.threshold)
    made = [embedding_map(embedded)]  # None where there are too few images
    if embedded.truth is not None:
        encoded = Encoded(embedded.image_ND, embedded.text_MD, embedded.caption_image_M)
        chance = match_chance(EVIDENCE, SPLIT, "test")
        pairs = unpaired_pairs(
            encoded, embedded.truth, partial(posterior, moment=run.best, sampler=run.sampler), chance
        )
        made.append(precision_recall(pairs.scores(), pairs.true_P))
    return charts, rule_note(params), [drawn for drawn in made if drawn is not None]


if __name__ == "__main__":
    main()
