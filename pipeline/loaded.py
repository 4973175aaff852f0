"""A trained model outside of the pipeline: `pipeline.load("models/trained")`.

Shapes: B pictures or sentences, N things searched, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pipeline.data.images import decode, upright_rgb
from pipeline.errors import InputError
from pipeline.evaluation.embedding import Embedder
from pipeline.paths import BASE, LAST
from pipeline.serving import BASE_FOLDER, TRAINED_FOLDER

if TYPE_CHECKING:
    from PIL.Image import Image


class Model:
    """Encodes pictures and sentences to unit vectors whose product is their similarity, and searches."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    def encode_image(self, pictures: Sequence[Path | str | Image]) -> Tensor:
        """Unit vectors (B, D) of pictures: files, or opened by PIL.

        The EXIF orientation is applied to both: `ImageOps.exif_transpose` before is no harm, turning by hand is.

        Raises:
            InputError: naming a file that is missing or is no picture; for a single picture that is no list.
        """
        if isinstance(pictures, str | Path) or hasattr(pictures, "convert"):
            raise InputError("encode_image: expected a list of pictures, found one")
        return self._embedder.images([_picture(one) for one in pictures])

    def encode_text(self, sentences: Sequence[str]) -> Tensor:
        """Unit vectors (B, D) of sentences.

        Raises:
            InputError: for a single sentence that is no list.
        """
        if isinstance(sentences, str):
            raise InputError("encode_text: expected a list of sentences, found one")
        return self._embedder.captions(list(sentences))

    def search(self, query: str | Path | Image, among: Tensor, top: int = 10) -> list[tuple[int, float]]:
        """The rows of `among` (N, D) that match `query` best, each with its similarity.

        A string is a sentence; a picture is a `Path` or opened by PIL. Encode what is searched once, before.
        """
        query_1D = self.encode_text([query]) if isinstance(query, str) else self.encode_image([query])
        best = (among @ query_1D[0]).topk(min(top, len(among)))
        return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))


def load(place: str | Path = "models/trained", base: str | Path | None = None) -> Model:
    """A trained model: the folder that stage `train` wrote, or a name in MLflow's registry such as `models:/fne@best`.

    Args:
        place: the folder, or `models:/NAME/VERSION` or `models:/NAME@ALIAS`.
        base: the frozen towers of a model with `model.train: heads`, if not in `base` beside its folder; a registered
            model contains them.

    Raises:
        InputError: when a part is missing or does not fit.
    """
    if str(place).startswith("models:/"):
        from pipeline.tracking.model import registered_folder

        folder = registered_folder(str(place)) / "data" / "data"
        return Model(Embedder(folder / TRAINED_FOLDER, folder / BASE_FOLDER))
    folder = Path(place).absolute()
    if base is None:
        base = folder.parents[folder.name == LAST.name] / BASE.name
    return Model(Embedder(folder, Path(base)))


def _picture(one: Any) -> Image:
    if not isinstance(one, str | Path):
        return upright_rgb(one, getattr(one, "filename", "") or "a picture opened by PIL")
    try:
        return decode(Path(one).read_bytes(), str(one))
    except OSError as error:
        raise InputError(f"{one}: {error.strerror}") from None
