"""The mutants that no test noticed, each with the reason why, after `mutmut run`.

    python -m tests.faults.survivors --write docs/mutants.md

Ends with 1 where fewer than 85 % were noticed, or where a survivor fits none of the reasons below: then a test is
missing, or a reason. Mutants that the run has not tried are left out, so that a part can be run:
`make mutants ARGS='"pipeline.features.*"'`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

import click

LEAST = 0.85
STATUS = re.compile(r"^\s*(pipeline\S+): ([a-z ]+)$", re.MULTILINE)
NOTICED = ("killed", "timeout", "caught by type check", "segfault")


class Survivor(NamedTuple):
    """One of them: its function, and the line before and after."""

    function: str
    before: str
    after: str


REASONS: tuple[tuple[str, str], ...] = (
    # what the function, the line before and the line after must match, joined by newlines; the first that does counts
    (r"\n.*device[^\n]*\n.*(device=None|\.to\(None|, \)|TILE_ENTRIES|to\(dtype\))", "the CPU is the default device"),
    (r"precision_on\(None|map_location", "the CPU is the default device"),
    (r"read_noise\(None\)|write_audited", "only a whole stage or command runs it, whose tests this run leaves out"),
    (r"fewest >= 1", "with weight 1, `lerp` towards -inf is NaN already"),
    (r"max\(\)\) \+ 2\)|new_zeros\(2\)", "an entry more, which nothing reads"),
    (r"type (!=|==) \"", "what it decides between differs on another kind of device only"),
    (r"gather\(1, drawn_B1\)", "the guard against a GPU's rounding: on a CPU no candidate of weight 0 is drawn"),
    (r"count_N is None|sides\[1\]", "only the first is read, or both are the same there"),
    (r"_to\n", "what is moved is there already, on a CPU"),
    (r"update\n.*_to\(", "what is moved is there already, on a CPU"),
    (
        r"strict=(None|False)|strict=True.*\n.*, \)",
        "the lengths are equal by construction; `strict` guards against edits",
    ),
    (r"encoding|newline", "on Linux UTF-8 is the default, and the file's lines end as they are written"),
    (r"errstate", "numpy's warning is printed or not; the figure is the same"),
    (r"argsort", "what lies between equal values makes no difference to the figure"),
    (
        r"(dtype=|astype\(|\.to\().*\n.*(=None|, \)|\(None\))",
        "the type is the default, or holds these numbers as exactly",
    ),
    (
        r"\b(keep|kept)\b|found_RT|size \* max|BLOCK_ENTRIES|new_row\.st|chunk_size|_at_least|rows\[0\]",
        "how much is computed at once, or kept",
    ),
    (r"searchsorted", "`right` matters where a score stands on a quantile's edge, which moves a pair to the next bin"),
    (
        r"edges = np\.unique|bins = len\(edges\)|positives_B",
        "how finely scores are binned, or the bin below all true pairs, which counts none of them",
    ),
    (r"bincount\(.*, \)", "the last one is always counted, so that the length is the same"),
    (r"bins = len\(RELIABILITY", "bins that hold nothing are left out of the answer"),
    (r"masked_fill\(own|where\(total_B > 0", "any other number would do: it is multiplied by 0, or below all others"),
    (r"clamp\(min=|where\(added", "a guard against a division by 0, multiplied by 0 where it acts"),
    (r"[<>]=? (suspect|threshold)", "a real number that equals a bound to its last bit"),
    (r"topk", "the last dimension is the default"),
    (r"max\(2, total - warmup", "a guard against a division by 0 where the warm-up is the whole training"),
    (r"split\(None\)", "runs of spaces were made one before"),
    (r"isfinite\(\) \|", "one of the two is never finite alone: both miss in a batch of one image"),
    (r"InputError\(|str\(None\)|read_tensors\(|key: str", "only the words of an error differ"),
    (r"_begin_worker|_end_with_the_training", "it works in a process of its own, which tests/faults/ kills"),
    (r"torch\.autocast", "bfloat16 is autocast's default on a CPU"),
    (r"clamp\(0, 255\)", "no value lies above 255, except by rounding"),
    (r'"JPEG"', "Pillow takes either case"),
    (r"progress\(", "how often the bar is drawn"),
    (r"meshgrid", "`ij` is torch's default, with a warning"),
    (r"MOST_PAIRS|zeros\(1, CURVE_POINTS", "a guard for one picture, or a shape that torch broadcasts"),
    (r"torch\.empty\(0, ", "a folder has no captions, and nothing searches for one"),
    (r"gather\(.*differentiable", "one process has its own gradients"),
    (r"0 \* parameter", "a term that is 0 either way, so that every parameter has a gradient"),
    (r"no_sync\(\)", "gradients that processes exchange too early are the same, and slower"),
    (r"self\._devices", "a list of GPUs, which is empty on a CPU"),
    (r"2\) for place_B|/ 2\)", "a place between two counts is passed at the same one"),
)


@click.command()
@click.option("--write", "page", type=click.Path(dir_okay=False, path_type=Path), help="Write them as Markdown.")
def main(page: Path | None) -> None:
    """List the survivors."""
    answer = subprocess.run(
        [Path(sys.executable).with_name("mutmut"), "results", "--all", "true"],
        capture_output=True,
        text=True,
        check=True,
    )
    everything = dict(STATUS.findall(answer.stdout))
    found = {name: status for name, status in everything.items() if status != "not checked"}
    counts = Counter(found.values())
    noticed = sum(counts[status] for status in NOTICED)
    share = noticed / max(1, len(found))
    survivors = [_survivor(name) for name, status in found.items() if status not in NOTICED]
    reasons = defaultdict(list)
    for survivor in survivors:
        reasons[_reason(survivor)].append(survivor)
    lines = [
        "# Mutants that survived",
        "",
        "Written by `make mutants`: functions changed in one place at a time, and whether a test noticed.",
        "",
        "| room | mutants | tried | noticed |",
        "|---|---|---|---|",
        *_rooms(everything),
        "",
        f"Of those tried {share:.0%} were noticed. The others, by the reason why that is no gap:",
    ]
    for reason, group in sorted(reasons.items(), key=lambda item: -len(item[1])):
        lines += ["", f"## {reason[0].upper()}{reason[1:]}: {len(group)}", ""]
        lines += [f"- `{one.function}`: `{one.before}` → `{one.after}`" for one in group]
    if page is not None:
        page.write_text("\n".join(lines) + "\n", encoding="utf-8")
    click.echo(f"{noticed} of {len(found)} mutants noticed ({share:.1%}): {dict(counts)}")
    for survivor in reasons.get(UNEXPLAINED, ()):
        click.echo(f"{UNEXPLAINED}: {survivor}")
    raise SystemExit(share < LEAST or UNEXPLAINED in reasons)


UNEXPLAINED = "no reason known"


def _rooms(everything: dict[str, str]) -> list[str]:
    """A row of the table for each folder of pipeline/."""
    statuses = defaultdict(list)
    for name, status in everything.items():
        statuses[name.split(".")[1]].append(status)
    return [
        f"| `{room}/` | {len(found)} | {sum(status != 'not checked' for status in found)} "
        f"| {sum(status in NOTICED for status in found)} |"
        for room, found in sorted(statuses.items())
    ]


def _reason(survivor: Survivor) -> str:
    text = "\n".join(survivor)
    return next((reason for pattern, reason in REASONS if re.search(pattern, text)), UNEXPLAINED)


def _survivor(name: str) -> Survivor:
    shown = _mutmut("show", name).splitlines()
    changed = {
        sign: next((line[1:].strip() for line in shown if line.startswith(sign) and not line.startswith(sign * 3)), "")
        for sign in "-+"
    }
    module, _, function = name.removeprefix("pipeline.").rpartition(".")
    function = re.sub(r"^x_?|__mutmut_\d+$", "", function).replace("ǁ", ".").strip(".")
    return Survivor(f"{module}.{function}", changed["-"].replace("`", "'"), changed["+"].replace("`", "'"))


def _mutmut(*arguments: str) -> str:
    command = [str(Path(sys.executable).with_name("mutmut")), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    main()
