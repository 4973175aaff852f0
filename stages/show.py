"""Print the last evaluation's recalls as a table (no DVC stage)."""

from __future__ import annotations

import click

from stages.command import stage


@click.command(name="show")
@stage
def main() -> None:
    """Print metrics.json as a table."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from pipeline.models.pretrained import read_record
    from pipeline.paths import METRICS

    metrics = read_record(METRICS)
    table = Table(title="Test split, percent", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("weights", "i2t R@1", "R@5", "R@10", "t2i R@1", "R@5", "R@10", "rsum", "i2t mAP", "t2i mAP"):
        table.add_column(column, justify="left" if column == "weights" else "right", no_wrap=column == "weights")
    for name, label in (("test", "best"), ("last", "last")):
        report = metrics[name]
        figures = [report[side][cutoff] for side in ("i2t", "t2i") for cutoff in ("R1", "R5", "R10")]
        truth = [report["truth"][side]["mAP@R"] for side in ("i2t", "t2i")] if "truth" in report else [None, None]
        table.add_row(
            label, *("–" if figure is None else f"{figure:.1f}" for figure in (*figures, report["rsum"], *truth))
        )
    console = Console()
    console.print(table)
    console.print("i2t: image to text, t2i: text to image; weights of the best validation and of the last epoch;")
    console.print("mAP: mAP@R against the truth, where every match is known")


if __name__ == "__main__":
    main()
