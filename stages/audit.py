"""Stage `audit`: the report, report/index.html and its tables."""

from __future__ import annotations

from functools import partial

import click

from stages.command import stage


@click.command(name="audit")
@stage
def main() -> None:
    """Write a page of pictures about the trained model: retrievals, false negatives, suspected pairs."""
    from pipeline.params import load_params

    params = load_params()  # before the heavy imports: a misspelt key is reported at once
    from pipeline.data.images import ImageArchive
    from pipeline.data.splits.format import SPLITS, read_split
    from pipeline.data.splits.truth_file import read_noise, read_truth
    from pipeline.evaluation.judgment import posterior
    from pipeline.files import atomic_folder, read_record, write_text
    from pipeline.paths import (
        BANK_PAIRS,
        EVIDENCE,
        HISTORY,
        IMAGES,
        INTERVALS,
        REPORT,
        RUN,
        SIMILARITY,
        SOURCE,
        SPLIT,
        VALIDATION,
        WEIGHTS,
    )
    from pipeline.report.curves import NOT_USED, SIMILARITY_COLUMNS, posterior_note, run_charts
    from pipeline.report.evidence import read_evidence
    from pipeline.report.false_negatives import by_evidence, by_similarity, false_negative_list
    from pipeline.report.gallery import read_embedded, retrieval_groups
    from pipeline.report.labels import Labelled
    from pipeline.report.lists import false_negative_table, suspect_table
    from pipeline.report.page import Contents, render_page
    from pipeline.report.pair_list import CUTOFFS
    from pipeline.report.pictures import Pictures
    from pipeline.report.reasons import explained
    from pipeline.report.recall_table import read_metrics
    from pipeline.report.suspects import suspected_pairs, true_images
    from pipeline.retrieval.published import published
    from pipeline.tracking import Tracker, renew_view
    from pipeline.training.record import read_rows, read_run

    tracker = Tracker(params.tracking.experiment)  # before the work: a deleted experiment is refused at once
    run, metrics = read_run(RUN), read_metrics()
    labels = {name: None if params.evaluate.truth == "none" else read_truth(SPLIT, name) for name in SPLITS}
    embedded, key = read_embedded(SPLIT / "test.json", labels["test"])
    splits = {name: embedded.split if name == "test" else read_split(SPLIT / f"{name}.json") for name in SPLITS}
    labelled = {name: Labelled(splits[name], labels[name]) for name in SPLITS} | {"test": embedded}

    evidence = read_evidence(EVIDENCE, splits, params.audit.split, params.sampler)
    count = params.audit.false_negatives
    if evidence.pairs:
        found = by_evidence(evidence.pairs, evidence.prior, labelled, max(count, *CUTOFFS))
    else:
        chance = partial(posterior, moment=run.best, sampler=run.sampler)
        found = by_similarity(embedded, "test", chance, max(count, *CUTOFFS))
    known = true_images(splits, read_noise(SPLIT), clean=params.data.name == "scenes")
    worst = suspected_pairs(splits, evidence.trust, embedded, WEIGHTS, BANK_PAIRS, params.audit.noisy_pairs, known)
    suspects = explained(worst, evidence.opened, splits)
    false_negatives = explained(false_negative_list(found, labelled, evidence.how, count), evidence.opened, splits)
    curves = read_rows(SIMILARITY, SIMILARITY_COLUMNS)
    facts = {
        "rsum": f"{metrics['test']['rsum']:.1f}",
        "negatives": params.sampler.strategy,
        "loss": params.loss.name,
        "memory": f"{params.memory.size}",
        "cut-down": f"{params.sampler.cutdown}",
        "seed": f"{params.seed}",
        "tested on": f"{len(embedded.split.images)} images",
    }
    contents = Contents(
        title=f"Audit: {read_record(SOURCE, 'download')['title']}",
        facts=list(facts.items()),
        metrics=metrics,
        intervals=read_record(INTERVALS) if INTERVALS.exists() else {},
        published=[
            {"method": row.method, **row.recalls, "rsum": row.rsum}
            | {"noise": row.noise, "source": row.source, "remark": row.remark}
            for row in published(params.data.name, params.evaluate.folds)
        ],
        charts=run_charts(curves, read_rows(HISTORY), read_rows(VALIDATION), run.threshold),
        chart_note=posterior_note(curves) + (NOT_USED if params.sampler.posterior == "evidence" else ""),
        embedded=embedded,
        split_name="test",
        groups=retrieval_groups(embedded, params.audit.queries),
        splits=splits,
        truth=next((truth.how for truth in labels.values() if truth is not None), ""),
        false_negatives=false_negatives,
        suspects=suspects,
    )
    page = render_page(contents, Pictures(ImageArchive(IMAGES), params.audit.thumbnail))
    with atomic_folder(REPORT) as folder:
        write_text(folder / "index.html", page)
        false_negative_table(false_negatives, splits, evidence.trust).to_csv(
            folder / "false_negatives.csv", index=False
        )
        suspect_table(suspects, splits).to_csv(folder / "noisy_pairs.csv", index=False)

    with tracker:
        if tracker.find_evaluation(key):
            for path in sorted(REPORT.iterdir()):
                tracker.artifact(path, "report")
            tracker.finish()
            renew_view(params.tracking.experiment)
    click.echo(f"{REPORT / 'index.html'}: {len(page) / 1e6:.1f} MB")
    for listed, what, right in (
        (false_negatives, "likely false negatives", "match"),
        (suspects, "suspects", "are wrong"),
    ):
        precision = f"; {', '.join(map(str, listed.precision))} {right} in truth" if listed.precision else ""
        click.echo(f"{len(listed.table)} {what}{precision}")


if __name__ == "__main__":
    main()
