"""All that needs a GPU, in one command of some minutes: the marked tests, trainings, rows of `make bench`, recipes.

    python -m benchmarks.gpu FILE [PART …]

Writes a JSON file. Every part is a process with a time limit; one that fails is reported, and the next one runs. The
parts that measure nothing run side by side. Neither DVC nor pretrained weights are needed: towers are random.
"""

from __future__ import annotations

import datetime
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import torch

    from pipeline.models.towers import MatchingModel
    from pipeline.params import Params
    from pipeline.training.loop import Training

ROOT = Path(__file__).parents[1]
STAGES = ("download", "split", "base", "features", "evidence", "bank", "train", "evaluate", "audit")
SIDE_BY_SIDE = {"tests": 150, "scenes": 270, "scenes-npc": 270, "scenes-clip": 270}  # seconds at most
ALONE = {"rows": 60, "recipes": 150}
TOKENS, STEPS, WARM = 32, 10, 3
BIG = {"train.batch_size": 256, "memory.size": 65536, "train.gradient_checkpointing": True}
RECIPES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("fne-flickr30k", "no", {}),
    ("fne-flickr30k", "bf16", {}),
    ("fne-flickr30k", "bf16", {"train.gradient_checkpointing": True}),
    ("fne-flickr30k", "bf16", BIG),
    ("clip-flickr30k", "no", {}),
    ("clip-flickr30k", "bf16", {}),
    ("npc-flickr30k", "bf16", {}),
    ("npc-flickr30k", "no", {}),
)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("parts", nargs=-1, type=click.Choice([*SIDE_BY_SIDE, *ALONE]))
@click.option("--run", "own", is_flag=True, hidden=True, help="run the one part in this process")
def main(file: Path, parts: tuple[str, ...], own: bool) -> None:
    """Run all parts, or some PARTS, and write FILE."""
    if own:
        found = rows() if parts[0] == "rows" else recipes()
        for one in found:
            print(json.dumps(one), flush=True)
        return
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    results: dict[str, Any] = {"gpu": _name(), "date": today}
    print(results["gpu"], flush=True)
    for together in (SIDE_BY_SIDE, *({name: limit} for name, limit in ALONE.items())):
        chosen = {name: limit for name, limit in together.items() if name in (parts or (*SIDE_BY_SIDE, *ALONE))}
        with tempfile.TemporaryDirectory() as folder:
            begun = time.monotonic()
            started = {name: _start(name, Path(folder)) for name in chosen}
            for name, process in started.items():
                results[name] = _end(process, begun + chosen[name]) | {"folder": _outputs(Path(folder) / name)}
                results[name]["seconds"] = round(time.monotonic() - begun, 1)
                file.write_text(json.dumps(results, indent=1), encoding="utf-8")
                print(f"== {name}: exit {results[name]['exit']}, {results[name]['seconds']} s", flush=True)
                print(results[name]["output"][-3000:], flush=True)


def _name() -> str:
    if shutil.which("nvidia-smi") is None:
        return "no nvidia-smi"
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()


def _start(name: str, folder: Path) -> subprocess.Popen[str]:
    place = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": place, "OMP_NUM_THREADS": "1" if name in SIDE_BY_SIDE else "8"}
    command, where = [sys.executable, "-m", "benchmarks.gpu", "ignored", name, "--run"], ROOT
    if name == "tests":
        command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "--tb=short", "tests/training/test_on_gpu.py"]
    elif name in SIDE_BY_SIDE:
        where = folder / name
        where.mkdir()
        (where / "params.yaml").write_text(_params_text(name), encoding="utf-8")
        code = f"set -e; for s in {' '.join(STAGES)}; do date +%T; {sys.executable} -m stages.$s; done"
        command = ["bash", "-c", code]
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "start_new_session": True}
    return subprocess.Popen(command, cwd=where, env=environment, text=True, **options)


def _end(process: subprocess.Popen[str], deadline: float) -> dict[str, Any]:
    try:
        output, _ = process.communicate(timeout=max(1.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output = process.communicate()[0] + "\nstopped: over its time"
    return {"exit": process.returncode, "output": output[-20_000:]}


def _outputs(folder: Path) -> dict[str, Any]:
    """What a training's stages left: the metrics, and the last rows of its history."""
    metrics, history = folder / "metrics.json", folder / "train/history.csv"
    if not metrics.exists():
        return {}
    return {"metrics": json.loads(metrics.read_text()), "history": history.read_text().splitlines()[-3:]}


def _params_text(recipe: str, **changes: Any) -> str:
    from pipeline.recipes import Recipe, apply_recipe, read_recipe

    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    if recipe != "scenes":
        text = apply_recipe(read_recipe(recipe, ROOT / "recipes"), text)
    return apply_recipe(Recipe(Path("changes"), "", changes), text) if changes else text


def rows() -> Iterator[dict[str, Any]]:
    """The rows of `make bench` that need a GPU."""
    from benchmarks import losses, ranking, towers

    for row in (*losses.on_gpu(), *ranking.on_gpu(), *towers.mixed_precision()):
        yield asdict(row)


def recipes() -> Iterator[dict[str, Any]]:
    """Step time and peak memory of the published recipes' towers and batches."""
    import torch

    for name, precision, changes in RECIPES:
        case = {"recipe": name, "precision": precision, **changes}
        try:
            yield case | measured(params_of(name, {"train.precision": precision, **changes}))
        except Exception as error:  # the next recipe is another question
            yield case | {"failed": f"{type(error).__name__}: {str(error).splitlines()[0][:300]}"}
        gc.collect()
        torch.cuda.empty_cache()


def params_of(recipe: str, changes: dict[str, Any]) -> Params:
    """A recipe's parameters with these changes."""
    from pipeline.params import parse_params
    from pipeline.yaml_text import parse_yaml

    return parse_params(parse_yaml(_params_text(recipe, **changes), recipe))


def measured(params: Params) -> dict[str, Any]:
    """Medians over some steps after those that warm up."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from benchmarks.measuring import host_waits
    from benchmarks.towers import timed_steps

    training, batch = opened(params)
    resident = torch.cuda.memory_allocated()
    training.step(batch, warming_up=False)
    torch.cuda.reset_peak_memory_stats()
    seconds = timed_steps(training, batch, WARM + STEPS, WARM)
    peak = torch.cuda.max_memory_allocated()
    waits = host_waits(lambda: training.step(batch, warming_up=False))
    with FlopCounterMode(display=False) as counter:
        training.step(batch, warming_up=False)
    operations = counter.get_total_flops()
    return {
        "batch": params.train.batch_size,
        "ms_a_step": 1000 * seconds,
        "pairs_a_second": params.train.batch_size / seconds,
        "peak_gib": peak / 2**30,
        "before_the_first_step_gib": resident / 2**30,
        "gflop_a_pair": operations / params.train.batch_size / 1e9,
        "tflops": operations / seconds / 1e12,
        "host_waits": waits,
    }


def opened(params: Params) -> tuple[Training, Any]:
    """A training of a recipe's towers, of random weights, with a full memory; and a batch of random pairs."""
    import numpy as np
    import torch
    from torch.nn.functional import normalize
    from transformers import PreTrainedModel

    from benchmarks.towers import training_of
    from pipeline.bank.table import Bank
    from pipeline.features.inputs import Batch, Entries
    from pipeline.models.towers import Tokens, recompute_activations
    from pipeline.training.impact import NegativeImpact

    torch.manual_seed(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model_of(params, device)  # random weights are drawn faster there
    if not hasattr(PreTrainedModel, "activation_checkpointing_enable"):  # before transformers 5.20 or so
        older: Any = PreTrainedModel
        older.activation_checkpointing_enable = older.gradient_checkpointing_enable
    if params.train.gradient_checkpointing:
        recompute_activations(model.image_tower, "image")
        recompute_activations(model.text_tower, "text")
    size, pairs = params.train.batch_size, params.pairs
    impact = None
    if pairs.weighting == "npc":
        every = np.arange(size)
        impact = NegativeImpact(model.to(device), params, Bank(every, every, np.ones(size)), None, {})
    training = training_of(params, model, params.train.precision, impact)
    if training.memory is not None:
        training.memory.filled.fill_(True)
        for side in (training.memory.image, training.memory.text):
            side.copy_(normalize(torch.randn(side.shape, device=device), dim=1))
    training.prepared.train()

    def some(count: int) -> Entries:
        pixels = torch.randint(0, 256, (count, 3, params.model.image_size, params.model.image_size), dtype=torch.uint8)
        ids = torch.randint(1000, 20_000, (count, TOKENS))
        mask = torch.ones_like(ids)
        mask[::2, TOKENS // 2 :] = 0
        return Entries(pixels, Tokens(ids, mask), torch.arange(count))

    own, entries = some(size), some(2 * size) if impact is not None else None
    batch = Batch(own.images, own.texts, own.image_id, own.image_id, 0, size, entries)
    return training, batch.to(training.device)


def model_of(params: Params, device: torch.device) -> MatchingModel:
    """A recipe's model with random weights."""
    from typing import cast

    from pipeline.models.build import make_model
    from pipeline.models.normalisation import HALF
    from pipeline.models.pretrained import Pretrained

    with device:
        image, text = _clip() if params.model.family == "clip" else _vit_bert(params.model.image_size)
        base = Pretrained(image, text, cast(Any, None), mean=HALF, std=HALF, source={})
        return make_model(base, params.model, params.loss.temperature)


def _vit_bert(size: int) -> tuple[Any, Any]:
    from transformers import BertConfig, BertModel, ViTConfig, ViTModel

    return ViTModel(ViTConfig(image_size=size)), BertModel(BertConfig())


def _clip() -> tuple[Any, Any]:
    """ViT-B/32: transformers' default configurations."""
    from transformers import (
        CLIPTextConfig,
        CLIPTextModelWithProjection,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )

    return CLIPVisionModelWithProjection(CLIPVisionConfig()), CLIPTextModelWithProjection(CLIPTextConfig())


if __name__ == "__main__":
    main()
