"""A person's answers to "does the caption describe the picture?", as the report's page writes them (judgments.csv).

An answer is about a picture and a text: it holds for every caption with that text, in whichever split the picture is.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from pipeline.data.captions import one_line
from pipeline.data.splits.format import Split
from pipeline.data.splits.judgment_file import COLUMNS
from pipeline.data.text import read_text
from pipeline.errors import InputError
from pipeline.files import users_file, write_table
from pipeline.paths import JUDGMENTS

VERDICTS = {"yes": 1, "no": 0, "unsure": -1}


def write_judgments(file: str, splits: Mapping[str, Split], folder: Path) -> str:
    """Write the answers in `data.judgments` by the rows of the splits; returns a line about them.

    Raises:
        InputError: naming the file and the line: a missing column, an unknown verdict, or two answers to one question.
    """
    import pandas

    path = users_file(file, "data.judgments")
    answers = _read(path)
    rows = []
    found = set()
    for name, split in splits.items():
        image_of = {image: row for row, image in enumerate(split.images)}
        captions = defaultdict(list)
        for row, text in enumerate(split.captions):
            captions[one_line(text.strip())].append(row)
        for (image, text), (verdict, proposed) in answers.items():
            for caption in captions[text] if image in image_of else ():
                own = split.caption_image[caption] == image_of[image]
                rows.append((name, image_of[image], caption, VERDICTS[verdict], own, proposed))
                found.add((image, text))
    table = pandas.DataFrame(rows, columns=list(COLUMNS))
    write_table(folder / JUDGMENTS.name, table.astype({"image": "int32", "caption": "int32", "match": "int8"}))
    lost = len(answers) - len(found)
    return f"judgments: {len(found)} used" + (f", {lost} of pictures or captions that are not here" if lost else "")


def _read(path: Path) -> dict[tuple[str, str], tuple[str, bool]]:
    rows = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    answers: dict[tuple[str, str], tuple[str, bool]] = {}
    try:
        if missing := [name for name in ("image", "caption", "verdict") if name not in (rows.fieldnames or ())]:
            raise InputError(f"{path}: no column {missing[0]!r}; the columns are {', '.join(rows.fieldnames or ())}")
        for row in rows:
            place = f"{path}: line {rows.line_num}"
            if None in row or None in row.values():
                raise InputError(f"{place}: expected {len(rows.fieldnames or ())} fields")
            verdict = row["verdict"].strip()
            if verdict not in VERDICTS:
                raise InputError(f"{place}: verdict {verdict[:40]!r}, expected {', '.join(VERDICTS)}")
            key = row["image"].strip(), one_line(row["caption"].strip())  # line breaks may differ after an editor
            if answers.setdefault(key, (verdict, row.get("chosen") == "proposed"))[0] != verdict:
                raise InputError(f"{place}: image {key[0]!r} with this caption is {verdict} here and another above")
    except csv.Error as error:
        raise InputError(f"{path}: line {rows.line_num}: not readable as a table: {error}") from None
    return answers
