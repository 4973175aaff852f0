"""Search a split with the trained model (no DVC stage): a sentence finds images, an image finds captions."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.errors import InputError, printable
from stages.command import stage

if TYPE_CHECKING:
    from pipeline.report.search_page import Match

FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(name="search")
@click.argument("sentence", required=False)
@click.option("--image", "image_path", type=FILE, help="Search with a picture instead: captions are found.")
@click.option(
    "--split", "split_name", type=click.Choice(["train", "val", "test", "all"]), default="test", show_default=True
)
@click.option(
    "--folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Search pictures of your own instead of a split.",
)
@click.option("--top", type=click.IntRange(min=1), default=10, show_default=True, help="How many matches.")
@click.option("--open", "opens", is_flag=True, help="Write a page of pictures and open it.")
@click.option("--page", "page_path", type=FILE, help="Where the page is written; search.html with --open.")
@stage
def main(
    sentence: str | None,
    image_path: Path | None,
    split_name: str,
    folder: Path | None,
    top: int,
    opens: bool,
    page_path: Path | None,
) -> None:
    """Print the images that match SENTENCE best, or the captions that match an image.

    Without either, sentences are read line by line until an empty one. What is encoded is kept for the next search.
    """
    from pipeline.params import load_params

    if image_path is not None and (sentence is not None or folder is not None):
        raise InputError("search for one thing: a sentence, or --image FILE, which finds captions of a split")
    if sentence is not None and not sentence.strip():
        raise InputError("search for one thing: a sentence, or --image FILE")
    params = load_params()  # before the heavy imports: a misspelt key is reported at once
    from pipeline.data.images import decode
    from pipeline.data.splits.format import SPLITS
    from pipeline.evaluation.embedding import Embedder
    from pipeline.evaluation.index import folder_index, split_index
    from pipeline.files import read_record
    from pipeline.paths import BASE, SOURCE, TRAINED
    from pipeline.report.search_page import Match, write_search_page

    query = None if image_path is None else decode(_content(image_path), str(image_path))
    embedder = Embedder(TRAINED, BASE)
    if folder is not None:
        index, place = folder_index(folder, embedder, lambda note: click.echo(printable(note), err=True)), str(folder)
    else:
        index = split_index(params, SPLITS if split_name == "all" else [split_name])
        name = read_record(SOURCE, "download")["name"]
        place = f"the {split_name} split of {name}" if split_name != "all" else f"all of {name}"
    split = index.split

    def answer(sentence: str) -> None:
        query_1D = embedder.captions([sentence]) if query is None else embedder.images([query])
        similarity_N = (index.image_ND if query is None else index.text_MD) @ query_1D[0]
        best = similarity_N.topk(min(top, len(similarity_N)))
        matches = []
        for value, row in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            caption = split.caption_image.index(row) if query is None else row
            matches.append(Match(split.images[split.caption_image[caption]], split.captions[caption], value))
        _print(matches, "its first caption" if query is None else "caption")
        if opens or page_path is not None:
            path = page_path or Path("search.html")
            counted = f"{len(split.images)} images" if query is None else f"{len(split.captions)} captions"
            about = f"The {len(matches)} best matches among {counted} of {place}."
            what = f"“{sentence}”" if image_path is None else image_path.name
            write_search_page(path, what, about, matches, index.picture, query)
            click.echo(f"page: {path}")
            if opens:
                click.launch(str(path))

    if sentence is not None or query is not None:
        answer(sentence or "")
        return
    for line in _lines(len(split.images)):
        answer(line)


def _lines(images: int) -> Iterator[str]:
    """Lines of standard input, with a prompt on a terminal, up to an empty one."""
    if sys.stdin.isatty():
        click.echo(f"{images} images; a sentence, or an empty line to end", err=True)
    while True:
        if sys.stdin.isatty():
            click.echo("search: ", nl=False, err=True)
        line = sys.stdin.readline().strip()
        if not line:
            return
        yield line


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"--image {path}: {error.strerror}") from None


def _print(matches: list[Match], heading: str) -> None:
    """With rich on a terminal, else tab-separated."""
    if not sys.stdout.isatty():
        for number, match in enumerate(matches, 1):
            click.echo(f"{number}\t{match.similarity:.4f}\t{match.name}\t{' '.join(match.caption.split())}")
        return
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("", "similarity", "image", heading):
        table.add_column(column, justify="right" if column in ("", "similarity") else "left")
    for number, match in enumerate(matches, 1):
        said = (escape(printable(text)) for text in (match.name, match.caption))
        table.add_row(str(number), f"{match.similarity:.3f}", *said)
    Console().print(table)


if __name__ == "__main__":
    main()
