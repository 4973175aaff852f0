"""What an entry of a journal may say; a journal that says anything else is damaged."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter

Entry = dict[str, Any]
"""What to do to the run: `do` names it, the rest says with what."""

BEGINNINGS = {"train": "training", "evaluate": "evaluation", "audit": "report"}
"""What a stage's journal begins with."""


def _below(path: str) -> str:
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or "\0" in path:
        raise ValueError("a path that leaves its folder")
    return path


Key = Annotated[str, Field(pattern=r"^[^'\"`\\\x00-\x1f]{1,500}$")]  # stands in the condition of a search
Name = Annotated[str, Field(min_length=1, max_length=1000)]
Integer = Annotated[int, Field(ge=0, lt=1 << 63)]
Below = Annotated[Name, AfterValidator(_below)]


class _Said(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class _Beginning(_Said):
    experiment: Name
    store: Name | None
    token: Key
    time: Integer


class _Training(_Beginning):
    do: Literal["training"]
    key: Key
    name: str
    params: dict[Name, Any]
    tags: dict[Name, str]
    place: str
    replaces: Key | None
    afresh: bool


class _Evaluation(_Beginning):
    do: Literal["evaluation"]
    key: Key
    evaluate_key: Key
    name: str
    params: dict[Name, Any]
    tags: dict[Name, str]


class _Report(_Beginning):
    do: Literal["report"]
    evaluate_key: Key


class _Metrics(_Said):
    do: Literal["metrics"]
    points: list[Annotated[list[Any], AfterValidator(lambda point: _POINT.validate_python(tuple(point)))]]


class _Artifact(_Said):
    do: Literal["artifact"]
    path: Below
    folder: Below | None


class _Describe(_Said):
    do: Literal["describe"]
    text: str


class _DataSet(_Said):
    do: Literal["data set"]
    name: Name
    context: Name
    digest: Name
    source: dict[str, Any]
    rows: Any


class _Model(_Said):
    do: Literal["model"]
    name: Name
    loader: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*$")]
    example: dict[Name, str]
    step: Integer
    folders: dict[Below, Below]


class _Finish(_Said):
    do: Literal["finish"]
    status: Literal["FINISHED", "FAILED", "KILLED"]
    time: Integer


_POINT: TypeAdapter[Any] = TypeAdapter(tuple[Name, FiniteFloat, Integer, Integer], config=ConfigDict(strict=True))
_ENTRY: TypeAdapter[Any] = TypeAdapter(
    Annotated[
        _Training | _Evaluation | _Report | _Metrics | _Artifact | _Describe | _DataSet | _Model | _Finish,
        Field(discriminator="do"),
    ]
)


def checked(entry: object, stage: str, *, first: bool) -> Entry:
    """`entry`, if a journal of `stage` may hold it, as its first or as a later one.

    Raises:
        ValueError: when it may not.
    """
    _ENTRY.validate_python(entry)
    if not isinstance(entry, dict) or first != (entry["do"] == BEGINNINGS.get(stage)):
        raise ValueError("an entry of another journal")
    return entry


def files_of(entry: Entry) -> list[str]:
    """The files and folders that an entry sends."""
    if entry["do"] == "artifact":
        return [entry["path"]]
    return list(entry["folders"].values()) if entry["do"] == "model" else []


def merged(entries: list[Entry]) -> list[Entry]:
    """The same with all figures in one entry, the second: a record is sent in few requests."""
    points = [point for entry in entries if entry["do"] == "metrics" for point in entry["points"]]
    others = [entry for entry in entries if entry["do"] != "metrics"]
    return [*others[:1], *([{"do": "metrics", "points": points}] if points else []), *others[1:]]
