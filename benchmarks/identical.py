"""Are the results of two commits the same to the last bit? Digests of the metrics and trained weights of three runs.

    python -m benchmarks.identical --to before.json --commit main~5 --root FLICKR8K --image TOWER --text TOWER
    python -m benchmarks.identical --to after.json --against before.json --root FLICKR8K --image TOWER --text TOWER

Each run is made stage by stage in a clone of the commit, without DVC, on one thread. A change that only moves or
renames code must leave every digest as it was; one that is meant to change a figure says which, and why.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import click

STAGES = ("download", "split", "base", "features", "evidence", "bank", "train", "evaluate")
PATTERNS = ("metrics.json", "models/base/**/*.safetensors", "models/trained/**/*.safetensors", "bank/*.parquet")
SCENES_CLIP_NPC = {
    "model.family": "clip",
    "data.noise.ratio": 0.4,
    "loss.name": "infonce",
    "loss.temperature": "learned",
    "pairs.weighting": "npc",
    "sampler.strategy": "all",
    "memory.size": 0,
    "train.warmup": "infonce",
    "train.epochs": 3,
}
FLICKR8K_HEADS = {
    "data.name": "flickr8k",
    "model.train": "heads",
    "model.image_size": 224,
    "memory.size": 4096,
    "train.warmup": "infonce",
    "train.batch_size": 128,
    "train.lr": 0.0005,
    "train.epochs": 2,
}


@click.command()
@click.option("--to", type=click.Path(dir_okay=False, path_type=Path), required=True, help="where the digests go")
@click.option("--against", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="digests to compare")
@click.option("--commit", default="HEAD", show_default=True)
@click.option(
    "--root", type=click.Path(exists=True, path_type=Path), help="Flickr8k's two archives; omitted: scenes only"
)
@click.option("--image", help="the image tower of the Flickr8k run")
@click.option("--text", help="the text tower of the Flickr8k run")
@click.option("--only", multiple=True, help="scenes, scenes-clip-npc or flickr8k-heads")
def main(
    to: Path, against: Path | None, commit: str, root: Path | None, image: str, text: str, only: tuple[str, ...]
) -> None:
    """Run three configurations at a commit and write the SHA-256 of what they made."""
    runs: dict[str, dict[str, object]] = {"scenes": {}, "scenes-clip-npc": SCENES_CLIP_NPC}
    if root is not None:
        towers = {"data.root": str(root.resolve()), "model.image": image, "model.text": text}
        runs["flickr8k-heads"] = FLICKR8K_HEADS | towers
    found = {name: _digests(commit, changes) for name, changes in runs.items() if not only or name in only}
    to.write_text(json.dumps(found, indent=1) + "\n")
    if against is None:
        return
    before = json.loads(against.read_text())
    differ = [
        f"{name}: {path}"
        for name in found
        for path in sorted(found[name].keys() | before[name].keys())
        if found[name].get(path) != before[name].get(path)
    ]
    if differ:
        raise click.ClickException("not the same:\n  " + "\n  ".join(differ))
    click.echo(f"the same to the last bit: {', '.join(found)}")


def _digests(commit: str, changes: dict[str, object]) -> dict[str, str]:
    from benchmarks.study import set_values
    from pipeline.files import write_json
    from pipeline.yaml_text import parse_yaml

    with tempfile.TemporaryDirectory() as name:
        clone = Path(name)
        subprocess.run(["git", "clone", "--quiet", ".", str(clone)], check=True)
        subprocess.run(["git", "checkout", "--quiet", commit], cwd=clone, check=True)
        params = parse_yaml((clone / "params.yaml").read_text(encoding="utf-8"), "params.yaml")
        set_values(params, changes)
        write_json(clone / "params.yaml", params)  # JSON is YAML too
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "DVC_ROOT": str(clone),
            "MLFLOW_TRACKING_URI": f"sqlite:///{clone}/mlflow.db",
            "MALLOC_MMAP_THRESHOLD_": str(1 << 30),  # three times as fast, and the same figures
            "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
        }
        for stage in STAGES:
            subprocess.run([sys.executable, "-m", f"stages.{stage}"], cwd=clone, env=environment, check=True)
        paths = sorted({path for pattern in PATTERNS for path in clone.glob(pattern)})
        return {str(path.relative_to(clone)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


if __name__ == "__main__":
    main()
