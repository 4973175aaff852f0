"""Write the splits as JSON lines, one pair of an image and a caption a line."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.data.splits.format import SPLITS, read_split
from pipeline.files import write_text


def write_jsonl(split_folder: Path, folder: Path) -> list[str]:
    """Write `{train,val,test}.jsonl` with `image` (a file's name), `caption` and `image_id`; returns what to tell."""
    told = []
    for name in SPLITS:
        split = read_split(split_folder / f"{name}.json")
        rows = [
            {"image": split.images[image], "caption": caption, "image_id": image}
            for caption, image in zip(split.captions, split.caption_image, strict=True)
        ]
        write_text(folder / f"{name}.jsonl", "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))
        told.append(f"{name}: {len(rows)} pairs")
    return told
