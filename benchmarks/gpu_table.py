"""What the published recipes need of a GPU: memory and hours by counting, and what was measured.

    python -m benchmarks.gpu_table [FILE]         # count, and keep what benchmarks.gpu measured into FILE
    python -m benchmarks.performance --write      # put the tables into docs/performance.md

The operations of a pair's forward pass are counted on the real model without data (device "meta"), those of matrix
products only. A step makes 3 forward passes' worth of them for the trained towers (a backward pass counts twice), 1 for
the momentum towers, and 1 more where activations are computed twice. NPC's step makes 2 more for the siamese's
gradient, and 2 x (1 + 3) for the bank's pairs, which are in float32.

Bytes: for each parameter 12 (the weight, Adam's two moments), 4 in the momentum towers, 2 for the bfloat16 copy, and 12
for NPC's siamese (two moments, the moved weight); the queue; and what the layers keep for the backward pass. Gradients
take the place of activations that are freed by then: they are not counted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmarks.gpu import TOKENS, model_of, params_of

if TYPE_CHECKING:
    from pipeline.params import Params

FIGURES = Path("docs/results/gpu.json")
PAIRS = {"flickr30k": 145_000, "mscoco": 566_435, "cc120k": 120_000}
RECIPES = [
    f"{method}-{data}" for method in ("fne", "clip", "npc") for data in PAIRS if (method, data) != ("fne", "cc120k")
]
GPUS = {"A100": (312, 19.5), "H100": (989, 67)}
"""Peak of dense products in bf16 and in float32, TFLOP/s, of the vendor's data sheets."""
SHARES = {"A100": (0.30, 0.55), "H100": (0.15, 0.55)}
"""The shares of them that a step is taken to reach: the H100's as measured (on an H200), the A100's assumed."""
KEPT = {"no": 66, "bf16": 42}
"""Bytes that a layer with fused attention keeps for each token and channel. float32: both norms' inputs and outputs,
queries, keys, values, attention's output twice, 4 bytes each; the inner layer before and after its activation, 16 each;
2 for the rest. bf16: the norms' inputs stay float32, and queries, keys and values keep a copy of their input each."""
QUICK_GELU = {"no": 16, "bf16": 8}
"""Of CLIP: one more tensor of the inner layer."""


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True), required=False)
def main(file: Path | None) -> None:
    """Count for every recipe, and keep the measured rows and recipes of FILE, in docs/results/gpu.json."""
    from pipeline.files import write_json

    kept: dict[str, Any] = json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {}
    kept["computed"] = [computed(name) for name in RECIPES]
    if file is not None:
        found = json.loads(file.read_text(encoding="utf-8"))
        for part in ("rows", "recipes"):
            lines = found.get(part, {}).get("output", "").splitlines()
            kept[part] = [json.loads(line) for line in lines if line.startswith("{")] or kept.get(part, [])
        kept |= {"gpu": found["gpu"], "date": found["date"]}
        for case in kept["recipes"]:
            count = Count(params_of(case["recipe"], {name: value for name, value in case.items() if "." in name}))
            case["computed_gib"] = count.gib(case["precision"], again=count.params.train.gradient_checkpointing)
    write_json(FIGURES, kept)


def computed(name: str) -> dict[str, Any]:
    """A recipe's line of the table."""
    count = Count(params_of(name, {}))
    return {
        "recipe": name,
        "batch": count.params.train.batch_size,
        "gflop_a_pair": sum(count.passes(again=False)) * count.forward / 1e9,
        "gib_float32": count.gib("no"),
        "gib_bf16": count.gib("bf16"),
        "gib_checkpointing": count.gib("bf16", again=True),
        "hours": {gpu: count.hours(gpu, PAIRS[name.rpartition("-")[2]]) for gpu in GPUS},
    }


class Count:
    """A recipe's operations and bytes."""

    def __init__(self, params: Params) -> None:
        """Count on the real model."""
        import torch
        from torch.utils.flop_counter import FlopCounterMode

        from pipeline.models.towers import Tokens

        self.params = params
        device = torch.device("meta")
        model = model_of(params, device)
        pixels = torch.empty(1, 3, params.model.image_size, params.model.image_size, device=device)
        ids = torch.empty(1, TOKENS, dtype=torch.long, device=device)
        with FlopCounterMode(display=False) as counter:
            model(pixels, Tokens(ids, ids))
        self.forward = counter.get_total_flops()
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        self.width = model.width
        towers: Any = model.image_tower, model.text_tower
        vision, words = (tower.backbone.config for tower in towers)
        places = (vision.image_size // vision.patch_size) ** 2 + 1
        self.channels = [  # of all layers, for one pair; the layers
            (places * vision.hidden_size, vision.num_hidden_layers),
            (TOKENS * words.hidden_size, words.num_hidden_layers),
        ]

    def passes(self, *, again: bool) -> tuple[int, int]:
        """Forward passes' worth of operations for a pair: in the training's precision, and always in float32."""
        npc = self.params.pairs.weighting == "npc"
        return 3 + bool(self.params.memory.size) + again + 2 * npc, (8 + 2 * again) * npc

    def gib(self, precision: str, *, again: bool = False) -> float:
        """Memory of a step; `again`: with gradient checkpointing."""
        npc, size = self.params.pairs.weighting == "npc", self.params.memory.size
        each = 12 + 4 * bool(size) + 2 * (precision == "bf16") + 12 * npc
        total = each * self.parameters + 8 * size * self.width + self._kept(precision, again)
        total += 2 * self._kept("no", again) * npc
        return total / 2**30

    def _kept(self, precision: str, again: bool) -> float:
        clip = self.params.model.family == "clip"
        each = KEPT[precision] + QUICK_GELU[precision] * clip
        if not again:
            return self.params.train.batch_size * sum(each * places * layers for places, layers in self.channels)
        inputs = sum(4 * places * layers for places, layers in self.channels)
        return self.params.train.batch_size * (inputs + max(each * places for places, _ in self.channels))

    def hours(self, gpu: str, pairs: int) -> float:
        """Of a whole training in bf16, without validations."""
        passes, rates = self.passes(again=False), zip(GPUS[gpu], SHARES[gpu], strict=True)
        seconds = sum(
            count * self.forward / (peak * share * 1e12) for count, (peak, share) in zip(passes, rates, strict=True)
        )
        return self.params.train.epochs * pairs * seconds / 3600


def section() -> str:
    """The Markdown for docs/performance.md."""
    found = json.loads(FIGURES.read_text(encoding="utf-8"))
    shares = "; ".join(
        f"{gpu}: {100 * bf16:.0f} % of {GPUS[gpu][0]} TFLOP/s in bf16, {100 * plain:.0f} % of {GPUS[gpu][1]} in float32"
        for gpu, (bf16, plain) in SHARES.items()
    )
    text = (
        "## GPUs for the published recipes: computed\n\nNot measured: counted by `benchmarks/gpu_table.py`, whose head "
        "says how. The last column of GiB is with `train.gradient_checkpointing`. Hours are of training in bf16 "
        f"without validations, at a stated share of the peak ({shares}). Captions of {TOKENS} tokens.\n\n"
    )
    head: tuple[str, ...] = ("recipe", "batch", "GFLOP a pair", "GiB, float32", "GiB, bf16", "GiB, checkpointing")
    text += _table((*head, *(f"hours, {gpu}" for gpu in GPUS)), map(_computed_line, found["computed"]))
    if "gpu" not in found:
        return text
    head = ("recipe", "precision", "ms a step", "pairs/s", "TFLOP/s", "GiB, peak", "GiB, computed")
    text += (
        f"\n## GPUs for the published recipes: measured\n\n`python -m benchmarks.gpu` on {found['gpu']}, "
        f"{found['date']}: random weights and pairs, {TOKENS} tokens, no data loading.\n\n"
    )
    text += _table(head, (_measured_line(case) for case in found["recipes"] if "failed" not in case))
    head = ("what", "measure", "value", "how")
    lines = ((row["what"], row["measure"], f"{row['value']:.2f}", row["remark"]) for row in found["rows"])
    return text + ("\n" + _table(head, lines) if found["rows"] else "")


def _computed_line(row: dict[str, Any]) -> tuple[str, ...]:
    memory = (row["gib_float32"], row["gib_bf16"], row["gib_checkpointing"])
    hours = (f"{value:.2f}" for value in row["hours"].values())
    return (
        f"`{row['recipe']}`",
        str(row["batch"]),
        f"{row['gflop_a_pair']:.0f}",
        *(f"{value:.1f}" for value in memory),
        *hours,
    )


def _measured_line(case: dict[str, Any]) -> tuple[str, ...]:
    changes = "".join(f", {name} {value}".lower() for name, value in case.items() if "." in name)
    precision = "float32" if case["precision"] == "no" else case["precision"]
    whole = (f"{case[name]:.0f}" for name in ("ms_a_step", "pairs_a_second", "tflops"))
    return f"`{case['recipe']}`{changes}", precision, *whole, f"{case['peak_gib']:.1f}", f"{case['computed_gib']:.1f}"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    main()
