"""The trained model as MLflow loads it: `mlflow.pyfunc.load_model("models:/fne/1").predict(table)`.

MLflow calls `_load_pyfunc` of this module (its flavor `loader_module`): nothing is pickled, the weights are
safetensors, and the model contains a copy of this project's code.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.data.images import decode
from pipeline.errors import InputError
from pipeline.evaluation.embedding import Embedder

if TYPE_CHECKING:
    import pandas
    from PIL.Image import Image

TRAINED_FOLDER, BASE_FOLDER = "trained", "base"
"""The content of a logged model: models/trained, and models/base for heads over frozen towers."""
LONGEST_PATH = 4096  # a longer text is content


class Matcher:
    """Embeds images and captions, and computes their similarity for rows that have both."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    def predict(self, model_input: pandas.DataFrame, params: dict[str, Any] | None = None) -> pandas.DataFrame:
        """One row of output per row of input.

        Args:
            model_input: columns `image` (a file's path, its content, or that in base64) and/or `caption`; a cell may
                be empty.
            params: not used.

        Returns:
            Columns `image_embedding` and `caption_embedding`, unit vectors as lists, and `similarity`, their cosine;
            None if the row has no image or no caption.

        Raises:
            InputError: when both columns are missing or empty in a row, or an image does not decode.
        """
        import pandas

        unknown = set(model_input.columns) - {"image", "caption"}
        if unknown or not len(model_input.columns):
            raise InputError(f"columns {sorted(model_input.columns)}: image and caption, or one of them, are expected")
        rows = {name: _cells(model_input, name) for name in ("image", "caption")}
        for number in range(len(model_input)):
            if rows["image"][number] is None and rows["caption"][number] is None:
                raise InputError(f"row {number}: neither an image nor a caption")
        pictures = [_picture(cell, number) for number, cell in enumerate(rows["image"]) if cell is not None]
        sentences = [str(cell) for cell in rows["caption"] if cell is not None]
        vectors = {"image": iter(self._embedder.images(pictures)), "caption": iter(self._embedder.captions(sentences))}
        found = {
            name: [None if cell is None else next(vectors[name]) for cell in cells] for name, cells in rows.items()
        }
        pairs = list(zip(found["image"], found["caption"], strict=True))
        return pandas.DataFrame(
            {
                "image_embedding": [None if image is None else image.tolist() for image, _ in pairs],
                "caption_embedding": [None if caption is None else caption.tolist() for _, caption in pairs],
                "similarity": [
                    None if image is None or caption is None else float(image @ caption) for image, caption in pairs
                ],
            },
            index=model_input.index,
        )


def example() -> dict[str, str]:
    """A row of input: a small picture in base64, and a caption."""
    from io import BytesIO

    from PIL import Image

    content = BytesIO()
    Image.new("RGB", (32, 32), "red").save(content, "PNG")
    return {"image": base64.b64encode(content.getvalue()).decode(), "caption": "a red square"}


def _load_pyfunc(path: str) -> Matcher:
    """Called by MLflow with the folder of a logged model."""
    return Matcher(Embedder(Path(path) / TRAINED_FOLDER, Path(path) / BASE_FOLDER))


def _cells(table: pandas.DataFrame, name: str) -> list[Any]:
    """A column's cells, None for an empty one."""
    if name not in table.columns:
        return [None] * len(table)
    return [None if empty or cell == "" else cell for cell, empty in zip(table[name], table[name].isna(), strict=True)]


def _names_a_file(cell: str) -> bool:
    try:
        return len(cell) < LONGEST_PATH and "\0" not in cell and Path(cell).is_file()
    except OSError:  # base64 without a slash can be longer than a valid name
        return False


def _picture(cell: Any, number: int) -> Image:
    place = f"row {number}, image"
    if isinstance(cell, bytes):
        return decode(cell, place)
    if not isinstance(cell, str):
        raise InputError(f"{place}: {type(cell).__name__}, expected a path, bytes or base64 text")
    if _names_a_file(cell):
        return decode(Path(cell).read_bytes(), f"{place}: {cell}")
    try:
        content = base64.b64decode(cell.partition(",")[2] if cell.startswith("data:") else cell, validate=True)
    except (binascii.Error, ValueError):
        raise InputError(f"{place}: {cell[:60]!r} is no file that can be read, and no base64 either") from None
    return decode(content, place)
