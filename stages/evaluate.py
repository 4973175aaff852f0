"""Stage `evaluate`: evaluate the trained model on the test split."""

from __future__ import annotations

import os
from typing import Any

import click

from stages.command import stage
from stages.launch import take_gpus
from stages.recorded import check_recorded


@click.command(name="evaluate")
@click.option("--weights", type=str, help="evaluate published weights: FNE's model_best.pth.tar or NPC's *.pt")
@stage
def main(weights: str | None) -> None:
    """Rank the test split with the trained model, into metrics.json and evaluation."""
    from pipeline.params import dotted, load_params

    params = load_params()  # before the heavy imports: a misspelt key is reported at once
    if weights is not None:
        params = params.model_copy(update={"model": params.model.model_copy(update={"weights": weights})})
    take_gpus(1)
    from rich.console import Console

    from pipeline.data.splits.truth_file import read_truths
    from pipeline.dependencies import ROOT, code_digests
    from pipeline.evaluation.judgment import (
        Encoded,
        check_folds,
        judge,
        judgment_intervals,
        recall_curve,
        similarity_curves,
    )
    from pipeline.evaluation.unpaired import reliability_curve
    from pipeline.evidence.table import match_chance, trust_quality
    from pipeline.features.encoding import encode_split
    from pipeline.features.inputs import Inputs, open_inputs
    from pipeline.files import (
        atomic_folder,
        digest_of,
        read_record,
        sha256,
        users_file,
        write_json,
        write_tensors,
    )
    from pipeline.models.build import load_trained, read_model_record
    from pipeline.paths import (
        BASE,
        EMBEDDINGS,
        EVALUATED,
        EVALUATION,
        EVIDENCE,
        FEATURES,
        HISTORY,
        INTERVALS,
        LAST,
        LAST_METRICS,
        MANIFEST,
        METRICS,
        QUERIES,
        RUN,
        SPLIT,
        TRAINED,
    )
    from pipeline.report.figures import similarity_figure
    from pipeline.report.recall_table import recall_markdown
    from pipeline.report.tables import recalls_table
    from pipeline.retrieval.hubness import hubness_report
    from pipeline.retrieval.published import published
    from pipeline.runtime.processes import own_device, use_threads
    from pipeline.sections import NO_RESULT
    from pipeline.serving import BASE_FOLDER, TRAINED_FOLDER, example
    from pipeline.tracking import Tracker, committed_params, origin_tags, run_name
    from pipeline.training.record import best_validation, read_run, sampling_by_epoch

    tracker = Tracker(params.tracking.experiment)  # before the work: a deleted experiment is refused at once
    if weights is not None:
        from pipeline.evaluation.takeover import take_over

        content = sha256(users_file(weights, "--weights"))
        click.echo(take_over(params, digest_of(params.model_dump(), content, sha256(BASE / "base.json"))))
    trained_as = params.model.model_copy(update={"pooling": read_model_record(TRAINED).pooling})
    params = params.model_copy(update={"model": trained_as})
    run = read_run(RUN)
    inputs = open_inputs(params.model, FEATURES, SPLIT, "test")
    settings = params.evaluate
    check_folds(settings.folds, len(inputs.names))
    chosen = {name: value for name, value in dotted(params).items() if name.startswith("evaluate.")}
    chosen = {name: value for name, value in chosen.items() if not name.startswith(NO_RESULT)}
    evaluate_key = digest_of(run.key, chosen, sha256(SPLIT / "test.json"), code_digests("evaluate", ROOT))
    truths = {} if settings.truth == "none" else read_truths(SPLIT, "test")

    def encode(folder: Any, inputs: Inputs = inputs, name: str = "test") -> Encoded:
        model = load_trained(folder, inputs.feature_widths).to(own_device())
        use_threads(sum(parameter.numel() for parameter in model.parameters()))
        image_ND, text_MD = encode_split(model, inputs, settings.batch_size, name)
        return Encoded(image_ND.cpu(), text_MD.cpu(), inputs.caption_image)

    metrics = {}
    chance = match_chance(EVIDENCE, SPLIT, "test") if truths else None
    for name, folder, moment in (("last", LAST, run.last), ("test", TRAINED, run.best)):
        encoded = encode(folder)
        judgment = judge(encoded, settings.folds, truths, moment, run.sampler, chance if name == "test" else None)
        metrics[name] = judgment.report
    if settings.hubness:
        bank = encode(TRAINED, open_inputs(params.model, FEATURES, SPLIT, "train"), "train")
        split = (encoded.image_ND, encoded.text_MD, encoded.caption_image_M)
        corrected = hubness_report(*split, bank.image_ND, bank.text_MD, settings.folds)
        metrics["test"]["hubness"] = corrected
    if quality := trust_quality(EVIDENCE, SPLIT):
        metrics["test"]["trust"] = quality
    limits = judgment_intervals(judgment, settings.bootstrap, settings.seed) if settings.bootstrap else None
    curves = similarity_curves(encoded, run.best, run.sampler)
    with atomic_folder(EVALUATION) as folder:
        vectors = {"image_ND": encoded.image_ND, "text_MD": encoded.text_MD}
        write_json(folder / LAST_METRICS.name, metrics["last"])
        write_json(folder / EVALUATED.name, {"train_key": run.key, "test": metrics["test"]})
        write_tensors(folder / EMBEDDINGS.name, vectors, {"key": evaluate_key})  # stage audit finds the run by this key
        curves.to_csv(folder / "similarity.csv", index=False)
        recall_curve(judgment.ranks).to_csv(folder / "recall.csv", index=False)
        reliability_curve(judgment.unpaired).to_csv(folder / "reliability.csv", index=False)
        sampling_by_epoch(HISTORY).to_csv(folder / "sampling.csv", index=False)
        judgment.queries.to_parquet(folder / QUERIES.name, index=False)
        if limits is not None:
            write_json(folder / INTERVALS.name, limits)
        title = "Test captions: own image, nearest other image"
        similarity_figure(folder / "similarity.png", curves, run.threshold, title)
    write_json(METRICS, {"test": {"rsum": metrics["test"]["rsum"], **metrics["test"]}})  # DVC shows them in this order

    named = run_name(dotted(params), committed_params(), os.environ.get("DVC_EXP_NAME", ""))
    check_recorded()
    with tracker:
        if tracker.continue_for_evaluation(run.key, evaluate_key, named, dotted(params), origin_tags()):
            files = [EVALUATION / "similarity.png", METRICS, QUERIES, EVALUATION / "reliability.csv"]
            for path in files + ([INTERVALS] if limits else []):
                tracker.artifact(path)
            tracker.describe(recall_markdown(metrics))
            rows = read_record(MANIFEST, "features")["rows"]["test"]
            source = {"stage": "download"}
            tracker.data_set(f"{params.data.name} test", "test", sha256(SPLIT / "test.json"), source, rows)
            if params.tracking.model is not None:
                folders = {TRAINED_FOLDER: TRAINED} | ({BASE_FOLDER: BASE} if params.model.train == "heads" else {})
                description = f"{params.data.name}: {named}\n\n{recall_markdown(metrics)}"
                packed = "pipeline.serving", folders, example(), run.best.step
                rsum, val = best_validation(HISTORY), sha256(SPLIT / "val.json")
                tracker.keep_model(params.tracking.model, *packed, description, rsum, val)
            check_recorded()  # an invalid evaluation must not be logged
            # last: a run with these metrics was evaluated completely
            tracker.log_rows([{"step": run.best.step, **_flat(metrics)}])
            tracker.finish()
    click.echo(f"test rsum {metrics['test']['rsum']:.1f} (last epoch {metrics['last']['rsum']:.1f})")
    if settings.hubness:
        rsums = {name: f"{report['rsum']:.1f}" for name, report in corrected.items()}
        click.echo(
            f"rsum against hubs, with training queries: NNN {rsums['nnn']}, QB-Norm {rsums['qb_norm']}; with all test "
            f"queries, not comparable: dual softmax {rsums['dual_softmax']}"
        )
    Console().print(recalls_table(metrics, limits, published(params.data.name, settings.folds)))


def _flat(metrics: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """`{"test": {"i2t": {"R1": 5}}}` with MLflow's names: `{"test/i2t/R1": 5}`; `@` is not allowed in them."""
    flat: dict[str, float] = {}
    for name, value in metrics.items():
        path = f"{prefix}{name.replace('@', '_at_')}"
        flat.update(
            _flat(value, f"{path}/") if isinstance(value, dict) else {path: float(f"{value:.10g}")}
        )  # 312.55, not 312.54999999999995
    return flat


if __name__ == "__main__":
    main()
