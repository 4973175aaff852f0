"""The catalogue of datasets: where each is published, how its files are named, and what cannot be downloaded.

A new dataset is one more entry of `SOURCES` (see docs/data.md).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

FNE_JSON = "https://drive.google.com/drive/folders/1mondFS6TCbzvz2ZUk4UDFAxnD8xk25ie"
KARPATHY = "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip"
FLICKR8K = "https://github.com/jbrownlee/Datasets/releases/download/Flickr8k/"
COCO = "http://images.cocodataset.org/zips/"
# As stated by TensorFlow Datasets (url_checksums/coco_captions.txt) for the files under these addresses.
KARPATHY_SHA256 = "4cfd70132527b80933105e5829dc9034eaab9573482e2e680abbab6130244817"
COCO_SHA256 = {
    "train": "ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775",
    "val": "fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0",
}
NPC_TEXT = "https://drive.google.com/drive/folders/1VULI0Pxa4Turimkndpb7LoXP34wEGmtS"
FOLDERS = (".", "annotations", "annotations/scan_split")
SCAN_FILES = tuple(f"{split}_{part}.txt" for split in ("train", "dev", "test") for part in ("ids", "caps"))


@dataclass(frozen=True)
class Item:
    """One published file: its local name and its address, on the web or in a Drive folder.

    `folder` is the top folder of an image archive, if a dataset's images are spread over several archives.
    `sha256` is the digest published by the publisher or a library; a file without one is trusted on first use.
    """

    name: str
    address: str
    folder: str | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Layout:
    """Annotation files of one published layout: patterns of their base names, and where to fetch them.

    In a pattern, `*` matches anything and `|` separates alternatives. Each pattern in `files` matches exactly one file,
    each in `optional` at most one. `items` are the files or archives that hold them; empty if they must be in the
    user's folder.
    """

    files: tuple[str, ...]
    items: tuple[Item, ...] = ()
    optional: tuple[str, ...] = ()


def base_name(name: str) -> str:
    """`flickr30k-images/36979.jpg` as `36979.jpg`."""
    return PurePosixPath(name).name


def coco_identity(name: str) -> str:
    """The 12 digits that identify a COCO image, in any folder and under any name."""
    digits = re.search(r"(\d{12})\.jpg$", name)
    return digits.group(1) if digits else name


@dataclass(frozen=True)
class Source:
    """A dataset: its papers, its published files, and how the names in its annotations map to images.

    `layouts` are the supported ones, by the names of `data.annotations`; the first one with items is downloaded if the
    user's folder holds none. `member` maps a name in the annotations to the name in images.zip; two names with the same
    `identity` are the same picture. `scan_image` maps an id in SCAN-style text to the image's name.
    """

    title: str
    licence: str
    citation: str
    layouts: Mapping[str, Layout]
    images: tuple[Item, ...] = ()
    image_folders: tuple[str, ...] = ("images", ".")
    annotation_folders: tuple[str, ...] = FOLDERS
    by_hand: str = "set data.root to the folder that holds them"
    member: Callable[[str], str] = field(default=str)
    identity: Callable[[str], str] = field(default=str)
    scan_image: Callable[[str], str] = "{}.jpg".format


def fne_layout(prefix: str) -> Layout:
    """The three files that FNE publishes for a dataset."""
    names = tuple(f"{prefix}_{split}.json" for split in ("train", "val", "test"))
    return Layout(files=names, items=tuple(Item(name, FNE_JSON) for name in names))


NAMES = "image_name.txt|id_mapping.json"
# Found by their content, see pipeline.data.acquire.locate; the names are examples for messages.
TABLE = Layout(files=("*.csv|*.tsv|*.txt|*.jsonl|*.json|*.parquet",))
SHARDS = Layout(files=("*.parquet|*.tar|*_imgs.tsv",))
SIDECAR = Layout(files=("<image>.txt",))
COCO_JSON = Layout(files=("captions_val*.json",), optional=("captions_train*.json",))
KARPATHY_ITEMS = (Item("caption_datasets.zip", KARPATHY, sha256=KARPATHY_SHA256),)
SOURCES: dict[str, Source] = {
    "scenes": Source(
        title="Generated scenes of coloured shapes",
        licence="Apache-2.0, as this project, which draws them",
        citation="pipeline.data.scenes",
        layouts={"scenes": Layout(files=("scenes.json",))},
    ),
    "flickr8k": Source(
        title="Flickr8k",
        licence="Images under Flickr's terms; for non-commercial research and education",
        citation="Hodosh, Young and Hockenmaier (2013), Framing Image Description as a Ranking Task: Data, Models and "
        "Evaluation Metrics, Journal of Artificial Intelligence Research 47, 853-899",
        layouts={
            "flickr8k": Layout(
                files=(
                    "Flickr8k.token.txt",
                    *(f"Flickr_8k.{part}Images.txt" for part in ("train", "dev", "test")),
                ),
                items=(Item("Flickr8k_text.zip", FLICKR8K + "Flickr8k_text.zip"),),
                optional=("CrowdFlowerAnnotations.txt", "ExpertAnnotations.txt", "readme.txt"),
            ),
            "karpathy": Layout(files=("dataset_flickr8k.json",), items=KARPATHY_ITEMS),
            "table": TABLE,
        },
        images=(Item("Flickr8k_Dataset.zip", FLICKR8K + "Flickr8k_Dataset.zip"),),
        image_folders=("Flicker8k_Dataset", "Flickr8k_Dataset", "images", "."),  # the archive's own folder is misspelt
        annotation_folders=(".", "Flickr8k_text", "annotations", "f8k"),
        member=base_name,
        identity=base_name,
    ),
    "flickr30k": Source(
        title="Flickr30K",
        licence="Images under Flickr's terms; for non-commercial research and education, after a signed form",
        citation="Young, Lai, Hodosh and Hockenmaier (2014), From Image Descriptions to Visual Denotations, TACL 2, "
        "67-78; split: Karpathy and Fei-Fei (2015), Deep Visual-Semantic Alignments, CVPR",
        layouts={
            "karpathy": Layout(files=("dataset_flickr30k.json",), items=KARPATHY_ITEMS),
            "fne": fne_layout("flickr30k"),
            "scan": Layout(files=(*SCAN_FILES, NAMES)),
            "table": TABLE,
        },
        image_folders=("flickr30k-images", "flickr30k_images", "images", "."),
        annotation_folders=(*FOLDERS, "f30k"),
        by_hand="the publisher gives them out after a signed form: fill in the one at "
        "https://shannon.cs.illinois.edu/DenotationGraph/, unpack flickr30k-images.tar.gz, and set data.root to the "
        "folder that then holds flickr30k-images/ with its 31783 files <id>.jpg; or name in data.repository a copy on "
        "the Hugging Face hub, such as lmms-lab/flickr30k",
        member=base_name,
        identity=base_name,
    ),
    "mscoco": Source(
        title="MS-COCO 2014, captions",
        licence="Captions CC BY 4.0; images under Flickr's terms",
        citation="Lin et al. (2014), Microsoft COCO: Common Objects in Context, ECCV; split: Karpathy and Fei-Fei "
        "(2015), Deep Visual-Semantic Alignments, CVPR",
        layouts={
            "karpathy": Layout(files=("dataset_coco.json",), items=KARPATHY_ITEMS),
            "fne": fne_layout("coco"),
            "scan": Layout(files=SCAN_FILES, optional=("id_mapping.json",)),
            "coco": COCO_JSON,
        },
        images=tuple(
            Item(f"{part}2014.zip", f"{COCO}{part}2014.zip", f"{part}2014", digest)
            for part, digest in COCO_SHA256.items()
        ),
        annotation_folders=(*FOLDERS, "coco"),
        identity=coco_identity,
        scan_image=lambda identity: f"COCO_2014_{identity:0>12}.jpg",  # as NPC's rename script leaves them
    ),
    "cc120k": Source(
        title="CC120K, a subset of Conceptual Captions",
        licence="Captions free for any use with acknowledgement of Google; images belong to their sites",
        citation="Sharma et al. (2018), Conceptual Captions, ACL; subset: Zhang, Li and Ye (2024), Negative Pre-aware "
        "for Noisy Cross-Modal Matching, AAAI",
        layouts={"scan": Layout(files=SCAN_FILES)},
        by_hand="they lie on a service that needs a browser: the README of github.com/ZhangXu0963/NPC has the link and "
        f"its code (3ble), {NPC_TEXT} has the text; set data.root to the folder that then holds images/<id>.jpg and "
        "annotations/scan_split/{train,dev,test}_{ids,caps}.txt",
        member=base_name,
        identity=base_name,
    ),
    "folder": Source(
        title="A folder of images",
        licence="The owner's",
        citation="none",
        layouts={
            "karpathy": Layout(files=("dataset*.json",)),
            "fne": Layout(files=tuple(f"{split}.json|*_{split}.json" for split in ("train", "val", "test"))),
            "scan": Layout(files=SCAN_FILES, optional=(NAMES,)),
            "table": TABLE,
            "coco": COCO_JSON,
            "shards": SHARDS,
            "sidecar": SIDECAR,
        },
        annotation_folders=(*FOLDERS, "f30k", "coco"),
        by_hand="set data.root to a folder that holds images/ (or the images themselves) and one of: <any>_train.json, "
        "<any>_val.json and <any>_test.json (FNE), dataset<any>.json (Karpathy), {train,dev,test}_{ids,caps}.txt "
        "(SCAN), captions_val<year>.json (COCO), a table (.csv, .tsv, .txt, .jsonl, .json) with a column for the "
        "image, one for the caption and optionally split, a .txt beside each image, or *.parquet, *.tar or "
        "<split>_imgs.tsv with the images inside",
    ),
}
SOURCES["hub"] = replace(
    SOURCES["folder"],
    title="A data set of the Hugging Face hub",
    licence="Its card says",
    citation="Its card says",
    by_hand="expected are parquet or tar files with images and captions, or a table and images; data.files chooses",
)
