"""All that a stage imports: a process forked after this begins its work at once, and a kill hits work, not imports."""

from __future__ import annotations

import os

from stages.command import ENVIRONMENT

for name, value in ENVIRONMENT.items():
    os.environ.setdefault(name, value)

import importlib  # noqa: E402

for name in (
    *("accelerate", "matplotlib.pyplot", "mlflow.models", "mlflow.pyfunc", "mlflow.store.tracking.sqlalchemy_store"),
    *("mlflow.store.model_registry.sqlalchemy_store", "pandas", "pyarrow.parquet", "rich.console", "rich.table"),
    *("sklearn.metrics", "sklearn.mixture", "torch", "torch.utils.data", "transformers"),
    *("transformers.models.bert.modeling_bert", "transformers.models.vit.modeling_vit"),
    *("pipeline.report.figures", "pipeline.tracking", "pipeline.evaluation.judgment", "pipeline.training.setup"),
    *(
        f"stages.{stage}"
        for stage in ("download", "split", "base", "features", "evidence", "bank", "train", "evaluate", "audit")
    ),
):
    importlib.import_module(name)
