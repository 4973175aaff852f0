"""Paths of each stage's outputs, relative to the repository (or DVC's copy of it)."""

from pathlib import Path

RAW = Path("data/raw")
IMAGES = RAW / "images.zip"
ANNOTATIONS = RAW / "annotations"
PICTURES = ANNOTATIONS / "pictures.parquet"
SOURCE = RAW / "source.json"

SPLIT = Path("data/split")
VOCABULARY = SPLIT / "vocabulary.txt"
TRUTH = SPLIT / "truth.parquet"
TRUTH_KIND = SPLIT / "truth.json"
NOISE = SPLIT / "noise.json"
JUDGMENTS = SPLIT / "judgments.parquet"

LOCAL_TOWERS, LOCAL_ENCODERS = Path(".towers"), Path(".encoders")  # links, see pipeline.base.links
JUDGMENT_LINKS = Path(".judgments")  # a link to data.judgments
BASE = Path("models/base")
FEATURES = Path("features")
MANIFEST = FEATURES / "features.json"

EVIDENCE = Path("evidence")
EVIDENCE_RECORD = EVIDENCE / "evidence.json"
ALIGNMENT = EVIDENCE / "alignment.safetensors"

BANK = Path("bank")
BANK_PAIRS = BANK / "pairs.parquet"
BANK_RECORD = BANK / "bank.json"

TRAINED = Path("models/trained")  # the best validation
LAST = TRAINED / "last"  # the last epoch
TRAIN = Path("train")
HISTORY = TRAIN / "history.csv"
VALIDATION = TRAIN / "validation.csv"
RUN = TRAIN / "run.json"
WEIGHTS = TRAIN / "pairs.parquet"  # NPC's weights of the pairs

METRICS = Path("metrics.json")
EVALUATION = Path("evaluation")
QUERIES = EVALUATION / "ranks.parquet"
LAST_METRICS = EVALUATION / "last.json"  # as METRICS, of the last epoch's weights
INTERVALS = EVALUATION / "intervals.json"
EMBEDDINGS = EVALUATION / "embeddings.safetensors"
EVALUATED = EVALUATION / "evaluated.json"
SIMILARITY = EVALUATION / "similarity.csv"

REPORT = Path("report")

MADE_BY = {
    RAW: "download",
    SPLIT: "split",
    BASE: "base",
    FEATURES: "features",
    EVIDENCE: "evidence",
    BANK: "bank",
    TRAINED: "train",
    TRAIN: "train",
    METRICS: "evaluate",
    EVALUATION: "evaluate",
    REPORT: "audit",
}


def maker(path: Path | str) -> str | None:
    """The stage that makes `path` or a folder above it; None if no stage does."""
    return next((stage for output, stage in MADE_BY.items() if Path(path).is_relative_to(output)), None)
