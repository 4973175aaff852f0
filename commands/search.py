"""Search a split with the trained model (no DVC stage): a sentence finds images, an image finds captions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.errors import printable
from stages.command import stage

if TYPE_CHECKING:
    from pipeline.report.search_page import Match

FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(name="search")
@click.argument("sentence", required=False)
@click.option("--image", "image_path", type=FILE, help="Search with a picture instead: captions are found.")
@click.option("--split", "split_name", type=click.Choice(["train", "val", "test"]), default="test", show_default=True)
@click.option("--top", type=click.IntRange(min=1), default=10, show_default=True, help="How many matches.")
@click.option("--open", "opens", is_flag=True, help="Write a page of pictures and open it.")
@click.option("--page", "page_path", type=FILE, help="Where the page is written; search.html with --open.")
@stage
def main(
    sentence: str | None, image_path: Path | None, split_name: str, top: int, opens: bool, page_path: Path | None
) -> None:
    """Print the images that match SENTENCE best, or the captions that match an image."""
    from pipeline.errors import InputError
    from pipeline.params import load_params

    if (image_path is None) == (not (sentence or "").strip()):
        raise InputError("search for one thing: a sentence, or --image FILE")
    params = load_params()  # before the heavy imports: a misspelt key is reported at once
    from pipeline.data.images import ImageArchive, decode
    from pipeline.data.splits.format import read_split
    from pipeline.evaluation.embedding import Embedder
    from pipeline.features.encoding import encode_captions, encode_images
    from pipeline.features.inputs import open_inputs
    from pipeline.models.build import load_trained, read_model_record
    from pipeline.paths import BASE, FEATURES, IMAGES, SPLIT, TRAINED
    from pipeline.report.search_page import Match, write_search_page
    from pipeline.runtime.processes import own_device

    query = None if image_path is None else decode(_content(image_path), str(image_path))
    embedder = Embedder(TRAINED, BASE)
    trained_as = params.model.model_copy(update={"pooling": read_model_record(TRAINED).pooling})
    inputs = open_inputs(trained_as, FEATURES, SPLIT, split_name)
    split = read_split(SPLIT / f"{split_name}.json")
    model = load_trained(TRAINED, inputs.feature_widths).to(own_device())
    batch = params.evaluate.batch_size
    if query is None:
        query_1D = embedder.captions([sentence or ""])
        found_ND = encode_images(model, inputs, batch, split_name)
    else:
        query_1D = embedder.images([query])
        found_ND = encode_captions(model, inputs, batch, split_name)
    similarity_N = (found_ND.cpu() @ query_1D.T).squeeze(1)
    best = similarity_N.topk(min(top, len(similarity_N)))
    matches = []
    for value, row in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        caption = split.caption_image.index(row) if query is None else row
        matches.append(Match(split.images[split.caption_image[caption]], split.captions[caption], value))
    what = f"“{sentence}”" if image_path is None else image_path.name
    _print(matches, "its first caption" if query is None else "caption")
    if opens or page_path is not None:
        path = page_path or Path("search.html")
        counted = f"{len(split.images)} images" if query is None else f"{len(split.captions)} captions"
        about = f"The {len(matches)} best matches among {counted} of the {split_name} split of {params.data.name}."
        write_search_page(path, what, about, matches, ImageArchive(IMAGES).decode, query)
        click.echo(f"page: {path}")
        if opens:
            click.launch(str(path))


def _content(path: Path) -> bytes:
    from pipeline.errors import InputError

    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"--image {path}: {error.strerror}") from None


def _print(matches: list[Match], heading: str) -> None:
    """With rich on a terminal, else tab-separated."""
    import sys

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
