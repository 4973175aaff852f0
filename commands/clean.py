"""Give audited data back: wrong pairs left out, matches added, in the format of another tool (no DVC stage)."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path, PurePosixPath

import click

from commands.target import check_target
from pipeline.errors import InputError
from stages.command import stage

FORMATS = ("pairs", "eccv", "ignore", "sentence-transformers", "open_clip", "webdataset", "karpathy", "fne")
SHARE = click.FloatRange(0, 1)


@click.command(name="clean")
@click.argument("report", required=False, type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option("--format", "form", type=click.Choice(FORMATS), required=True)
@click.option(
    "--to", required=True, type=click.Path(path_type=Path, file_okay=False), help="Made, or replaced if this made it."
)
@click.option("--trust", default=0.5, show_default=True, type=SHARE, help="A pair that is trusted less is left out.")
@click.option("--posterior", default=0.5, show_default=True, type=SHARE, help="From here an unpaired pair matches.")
@click.option("--weighted", is_flag=True, help="Keep pairs with their trust as weight; leave out those judged wrong.")
@click.option("--images", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Folder of the pictures.")
@stage
def main(
    report: Path | None, form: str, to: Path, trust: float, posterior: float, weighted: bool, images: Path | None
) -> None:
    """Write the data that REPORT is about (a folder of `commands.audit`; report/ by default), and a card of it.

    A person's judgments count before the evidence. Pictures are read from --images (the audited FOLDER, or that of
    its pictures), else from data/raw/images.zip.
    """
    from pipeline.data.acquire.layouts import ImageFiles
    from pipeline.data.acquire.sources import SOURCES
    from pipeline.data.images import ImageArchive
    from pipeline.files import atomic_folder, write_text
    from pipeline.paths import IMAGES, REPORT
    from pipeline.report.cleaned import cleaned, data_card
    from pipeline.report.give_back import FORMATS as WRITERS
    from pipeline.report.give_back import WITH_IMAGES

    check_target(to, "README.md", "Made by `python -m commands.clean")
    data = cleaned(report or REPORT, trust, posterior, weighted=weighted)
    if not len(data.pairs):
        raise InputError(f"--trust {trust}: no pair is left; take a smaller number")
    if form in WITH_IMAGES and images is None and report is not None:
        raise InputError(
            f"--format {form}: holds the pictures too: name their folder with --images. If they are in shards or on "
            "the hub, run the pipeline on them (data.name: folder or hub), then this command without REPORT"
        )
    archive, source = ImageArchive(IMAGES), SOURCES["folder"]
    files = ImageFiles(source.identity)
    if images is not None:  # found as the audit found them: also by a near name
        for place in source.image_folders:
            files.add_folder(images / place, images)

    def read(name: str) -> bytes:
        if images is None:
            return archive.read(name)
        if (image := files.find(name)) is None or not _in_its_folder(image.place, name):
            raise InputError(
                f"--images {images}: {name!r} is none of its {len(files)} images; name the folder that was audited, "
                "and unpack archives first"
            )
        try:
            return image.read()
        except OSError as error:
            raise InputError(f"--images {images}: {name}: {error.strerror}") from None

    with atomic_folder(to) as folder:
        names = WRITERS[form](data, folder, read)
        write_text(
            folder / "README.md",
            data_card(data, form, names, shlex.join(["python", "-m", "commands.clean", *sys.argv[1:]])),
        )
    click.echo(
        f"{to}: {', '.join([*names, 'README.md'])}: {len(data.pairs)} pairs kept, {len(data.removed)} left out, "
        f"{len(data.matches)} unpaired matches known"
    )


def _in_its_folder(place: str, name: str) -> bool:
    """Whether a file lies in the folder that a name has: in another one, the same name may be another picture's."""
    within = PurePosixPath(name.casefold()).parent.parts
    return Path(place.casefold()).parent.parts[::-1][: len(within)] == within[::-1]


if __name__ == "__main__":
    main()
