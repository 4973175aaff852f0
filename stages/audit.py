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
    from pipeline.data.splits.truth_file import read_noise, read_truth
    from pipeline.evaluation.judgment import posterior
    from pipeline.files import atomic_folder, read_record, write_text
    from pipeline.paths import (
        BANK_PAIRS,
        HISTORY,
        IMAGES,
        INTERVALS,
        METRICS,
        REPORT,
        RUN,
        SIMILARITY,
        SOURCE,
        SPLIT,
        VALIDATION,
        WEIGHTS,
    )
    from pipeline.report.curves import SIMILARITY_COLUMNS, posterior_note, run_charts
    from pipeline.report.gallery import false_negatives, read_embedded, retrieval_groups
    from pipeline.report.lists import false_negative_table, suspect_table
    from pipeline.report.page import Contents, render_page
    from pipeline.report.pictures import Pictures
    from pipeline.report.suspects import suspected_pairs
    from pipeline.retrieval.published import published
    from pipeline.tracking import Tracker
    from pipeline.training.record import read_rows, read_run

    tracker = Tracker(params.tracking.experiment)  # before the work: a deleted experiment is refused at once
    run, metrics = read_run(RUN), read_record(METRICS, "evaluate")
    truth = None if params.evaluate.truth == "none" else read_truth(SPLIT, "test")
    embedded, key = read_embedded(SPLIT / "test.json", truth)
    chance = partial(posterior, moment=run.best, sampler=run.sampler)
    found = false_negatives(embedded, chance, params.audit.false_negatives)
    noise = read_noise(SPLIT)
    true_image_M = None if noise is None else noise.true_image_M.tolist()
    suspects = suspected_pairs(
        embedded, "test", SPLIT / "train.json", WEIGHTS, BANK_PAIRS, params.audit.noisy_pairs, true_image_M
    )
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
            {"method": row.method, **row.recalls, "noise": row.noise, "source": row.source, "remark": row.remark}
            for row in published(params.data.name, params.evaluate.folds)
        ],
        charts=run_charts(curves, read_rows(HISTORY), read_rows(VALIDATION), run.threshold),
        chart_note=posterior_note(curves),
        embedded=embedded,
        split_name="test",
        groups=retrieval_groups(embedded, params.audit.queries),
        false_negatives=found,
        suspects=suspects,
    )
    page = render_page(contents, Pictures(ImageArchive(IMAGES), params.audit.thumbnail))
    with atomic_folder(REPORT) as folder:
        write_text(folder / "index.html", page)
        false_negative_table(found, embedded.split, "test").to_csv(folder / "false_negatives.csv", index=False)
        suspect_table(suspects).to_csv(folder / "noisy_pairs.csv", index=False)

    with tracker:
        if tracker.find_evaluation(key):
            for path in sorted(REPORT.iterdir()):
                tracker.artifact(path, "report")
            tracker.finish()
    click.echo(f"{REPORT / 'index.html'}: {len(page) / 1e6:.1f} MB; {len(found)} likely false negatives")


if __name__ == "__main__":
    main()
