"""Log a trained model in its run and in MLflow's registry, loadable by `mlflow.pyfunc`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Run
from mlflow.exceptions import MlflowException

from pipeline.errors import InputError
from pipeline.files import read_record
from pipeline.tracking.store import NAMED, SQLITE, open_client, read_uri, reason, without_password

RSUM, DATA, BEST = "val_rsum", "val_data", "best"
"""A version's tags, and the alias of the version with the highest rsum on the newest version's validation data."""
# The packages for loading and predicting; MLflow would find them by loading the model, in twenty times the time.
REQUIREMENTS = (
    *("filelock", "mlflow", "numpy", "pandas", "pillow", "pydantic", "safetensors", "tokenizers", "torch"),
    *("torchvision", "transformers"),
)
IMAGE_TOWER = "image/config.json"


def keep_model(client: MlflowClient, run: Run, name: str, step: int, files: Callable[[], Path]) -> str:
    """Log a model into its run and register it as a new version; completes what a killed process has begun.

    Args:
        client: of the store.
        run: the run that trained it.
        name: in the registry.
        step: of the best validation.
        files: makes the folder with the model in MLflow's format; called only if the files are needed.

    Returns:
        The version.
    """
    run_id, experiment_id = run.info.run_id, run.info.experiment_id
    _registered(client, name)
    versions = [found for found in client.search_model_versions(f"run_id = '{run_id}'") if found.name == name]
    if versions:
        return str(min(versions, key=lambda found: int(found.version)).version)
    logged_models = client.search_logged_models([experiment_id], filter_string=f"source_run_id = '{run_id}'")
    begun = [model for model in logged_models if model.name == name]
    begun = begun or [client.create_logged_model(experiment_id, name, run_id, model_type="image-text")]
    logged = next((model for model in begun if model.status == LoggedModelStatus.READY), begun[0])
    if logged.status != LoggedModelStatus.READY:  # files may be missing: write all again
        client.log_model_artifacts(logged.model_id, str(files()))
        client.finalize_logged_model(logged.model_id, "READY")
    if logged.model_id not in [output.model_id for output in (run.outputs.model_outputs if run.outputs else [])]:
        client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step)])
    # not `models:/ID` as the source: MLflow would look it up in its global default store
    kept = client.create_model_version(name, logged.artifact_location, run_id, model_id=logged.model_id)
    return str(kept.version)


def pack_model(made: Path, loader: str, folders: Mapping[str, Path], example: Mapping[str, Any]) -> Path:
    """Write a model in MLflow's format, as `made/model`.

    Args:
        made: an empty folder.
        loader: a module of this project with `_load_pyfunc(path)`.
        folders: the content of that path, by name; links are followed, a folder `last` is left out.
        example: one row of input: strings by column; every column is optional.

    Returns:
        The model's folder.
    """
    import mlflow.pyfunc
    import pandas
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema
    from mlflow.types.schema import Array, DataType

    numbers = Array(DataType.double)
    vectors = [ColSpec(numbers, f"{side}_embedding", required=False) for side in ("image", "caption")]
    signature = ModelSignature(
        Schema([ColSpec(DataType.string, column, required=False) for column in example]),
        Schema([*vectors, ColSpec(DataType.double, "similarity", required=False)]),
    )
    data = made / "data"
    for below, folder in folders.items():
        (data / below).mkdir(parents=True)
        for part in folder.iterdir():
            if part.name != "last":
                (data / below / part.name).symlink_to(part.resolve())
    mlflow.pyfunc.save_model(
        str(made / "model"),
        loader_module=loader,
        data_path=str(data),
        code_paths=[str(Path(__file__).parents[1])],
        signature=signature,
        input_example=pandas.DataFrame([dict(example)]),
        pip_requirements=[f"{package}=={version(package)}" for package in _requirements(folders.values())],
    )
    return made / "model"


def _requirements(folders: Iterable[Path]) -> tuple[str, ...]:
    configs = [read_record(folder / IMAGE_TOWER) for folder in folders if (folder / IMAGE_TOWER).exists()]
    by_timm = any(config["model_type"] == "timm_wrapper" for config in configs)
    return (*REQUIREMENTS, "timm") if by_timm else REQUIREMENTS


def _registered(client: MlflowClient, name: str) -> None:
    """Make the registry's entry, unless another evaluation has made it."""
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def registered_folder(uri: str) -> Path:
    """The files of a registered model, `models:/NAME/VERSION` or `models:/NAME@ALIAS`; from a server they are fetched.

    Raises:
        InputError: when there is none, or the store cannot be read.
    """
    from mlflow.artifacts import download_artifacts

    store = read_uri()
    database = store.removeprefix(SQLITE)
    if store != database and not Path(database.partition("?")[0]).exists():  # MLflow would make an empty one
        raise InputError(f"{uri}: {database}: not found; run in the repository's root, or set {NAMED}")
    try:
        client = open_client(store)
        name, _, alias = uri.removeprefix("models:/").partition("@")
        name, _, number = (name, "", "") if alias else name.rpartition("/")
        found = client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, number)
        return Path(download_artifacts(artifact_uri=str(found.source), tracking_uri=store))
    except Exception as error:
        raise InputError(f"{uri}: not read from {without_password(store)} ({reason(error, store)})") from error


def describe_version(
    client: MlflowClient, name: str, version: str, description: str, rsum: float | None, data: str = ""
) -> None:
    """Describe a version, and give the alias `best` to the version with the highest rsum on its validation split.

    The rsum and `data`, the split's digest, are kept as the version's tags, so that versions of runs deleted since
    still count.
    """
    client.update_model_version(name, version, description)
    if rsum is None:
        return
    client.set_model_version_tag(name, version, DATA, data)
    client.set_model_version_tag(name, version, RSUM, f"{rsum:.4f}")
    rated = [found for found in client.search_model_versions(f"name = '{name}'") if RSUM in found.tags]
    versions = [found for found in rated if found.tags.get(DATA) == data]  # an rsum on other data does not compare
    best = max(versions, key=lambda found: (float(found.tags[RSUM]), -int(found.version)), default=None)
    client.set_registered_model_alias(name, BEST, version if best is None else str(best.version))
