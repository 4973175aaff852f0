"""params.yaml: one reader, checked whole; a bad value is named together with what is allowed."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.errors import InputError
from pipeline.params import Params, dotted, load_params, parse_params
from pipeline.problems import valid_names

FILE = Path(__file__).parents[1] / "params.yaml"
DELETED = object()
SOFT = {"targets__name": "albef", "loss__name": "infonce", "sampler__strategy": "all", "sampler__drop": None}
"""Targets that name every candidate."""
ENCODED = {"evidence__kinds": ["captions"], "evidence__text": "bert"}
UNPOSTERIOR = {"sampler__posterior": "similarity", "sampler__prior": 10_000.0}


def content_with(**changes: Any) -> dict[str, Any]:
    """params.yaml with values changed by dotted name, `__` for the dot."""
    content: dict[str, Any] = YAML(typ="safe", pure=True).load(FILE.read_text(encoding="utf-8"))
    for name, value in changes.items():
        *sections, key = name.split("__")
        section = content
        for part in sections:
            section = section[part]
        if value is DELETED:
            del section[key]
        else:
            section[key] = value
    return content


def complaint(**changes: Any) -> str:
    with pytest.raises(InputError) as refusal:
        parse_params(content_with(**changes))
    return str(refusal.value)


def test_nothing_changes_parameters_after_they_were_read() -> None:
    params = load_params(FILE)
    with pytest.raises(ValueError, match="frozen"):
        setattr(params.sampler, "cutdown", 0.1)  # noqa: B010 - a type checker refuses the plain statement


@pytest.mark.parametrize(
    ("name", "value", "nearest"),
    [
        ("sampler__cutdwn", 0.1, "sampler.cutdwn = 0.1: unknown key; the nearest valid name is sampler.cutdown"),
        ("model__pooled", "x", "model.pooled = 'x': unknown key; the nearest valid name is model.pooling"),
        ("samplers", {}, "samplers = {}: unknown key; the nearest valid name is sampler"),
        ("data__scenes__color", 3, "data.scenes.color = 3: unknown key; the nearest valid name is data.scenes.colours"),
    ],
)
def test_an_unknown_key_is_named_with_its_nearest_valid_name(name: str, value: Any, nearest: str) -> None:
    assert complaint(**{name: value}) == f"params.yaml: {nearest}"


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("seed", -1, "greater than or equal to 0"),
        ("seed", 2**32, "less than or equal to 4294967295"),
        ("data__scenes__train", 0, "greater than or equal to 1"),
        ("data__scenes__colours", 9, "less than or equal to 8"),
        ("data__scenes__detail", 1.5, "less than or equal to 1"),
        ("data__split__val", 0.5, "less than 0.5"),
        ("model__momentum", 1.0, "less than 1"),
        ("model__image_size", 8, "greater than or equal to 16"),
        ("memory__size", -1, "greater than or equal to 0"),
        ("sampler__cutdown", 2.5, "less than or equal to 2"),
        ("sampler__prior", 1, "greater than 1"),
        ("sampler__suspect", -0.1, "greater than or equal to 0"),
        ("loss__temperature", 0, "greater than 0"),
        ("train__lr", 0.0, "greater than 0"),
        ("train__batch_size", 0, "greater than or equal to 1"),
        ("launch__processes", 0, "greater than or equal to 1"),
        ("sampler__strategy", "fnee", "'fne', 'hardest', 'semi_hard', 'random', 'all'"),
        ("loss__name", "minus", "'triplet', 'hinge', 'hinge_mean', 'infonce'"),
        ("loss__name", "mine.", "or String should match pattern '^mine"),
        ("train__precision", "fp32", "'no', 'bf16' or 'fp16'"),
        ("tracking__experiment", "a/b", "should match pattern"),
        *[("tracking__model", f"fne{sign}1", "should match pattern") for sign in "/:.%\"'"],  # MLflow refuses them
    ],
)
def test_a_value_out_of_range_is_named_with_what_is_allowed(name: str, value: Any, allowed: str) -> None:
    message = complaint(**{name: value})
    assert message.startswith(f"params.yaml: {name.replace('__', '.')} = {value!r}: ")
    assert allowed in message


def test_an_entry_of_a_list_is_named_by_its_place() -> None:
    assert complaint(train__milestones=[5, 0]).startswith("params.yaml: train.milestones.1 = 0: ")


def test_soft_targets_have_a_way_through() -> None:
    assert parse_params(content_with(**SOFT)).targets.name == "albef"
    sigmoid = {"loss__name": "sigmoid", "sampler__strategy": "fne", "sampler__drop": 0.1}
    assert parse_params(content_with(**(SOFT | sigmoid))).loss.name == "sigmoid"
    sparse = {"targets__name": "pseudo_positive", "sampler__strategy": "fne", "sampler__drop": 0.1}
    assert parse_params(content_with(**(SOFT | sparse))).sampler.strategy == "fne"


@pytest.mark.parametrize("name", ["sampler__alpha", "sampler__cutdown", "train__lr", "loss__margin", "model__momentum"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_neither_nan_nor_infinity_is_a_parameter(name: str, value: float) -> None:
    assert complaint(**{name: value}).startswith(f"params.yaml: {name.replace('__', '.')} = {value!r}: ")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("seed", "3407", "valid integer"),
        ("seed", True, "valid integer"),
        ("seed", None, "valid integer"),
        ("train__epochs", 2.5, "valid integer"),
        ("train__lr", "fast", "valid number"),
        ("train__milestones", 4, "valid list"),
        ("data__root", 7, "valid string"),
        ("sampler", [1], "valid dictionary"),
    ],
)
def test_a_wrong_type_is_named(name: str, value: Any, expected: str) -> None:
    message = complaint(**{name: value})
    assert message.startswith(f"params.yaml: {name.replace('__', '.')} = {value!r}: ")
    assert expected in message


@pytest.mark.parametrize("name", ["seed", "sampler", "sampler__alpha", "data__scenes__size"])
def test_a_missing_key_is_named(name: str) -> None:
    assert complaint(**{name: DELETED}) == f"params.yaml: {name.replace('__', '.')}: missing"


def test_everything_that_is_wrong_is_said_at_once() -> None:
    lines = complaint(sampler__alpha=-1, loss__name="x", train__lr=DELETED).splitlines()
    assert [line.split(": ")[1].split(" = ")[0] for line in lines] == ["sampler.alpha", "loss.name", "train.lr"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data__scenes__min_shapes": 4, "data__scenes__max_shapes": 2},
            "data.scenes: min_shapes 4 is above max_shapes 2",
        ),
        ({"data__name": "hub"}, "data: name hub needs data.repository, such as lmms-lab/flickr30k"),
        ({"data__root": "mine", "data__repository": "a/b"}, "data: root and repository are both named"),
        ({"base__width": 64, "base__heads": 5}, "base: width 64 does not divide by heads 5"),
        ({"model__image_size": 60, "base__patch": 16}, "model.image_size 60 does not divide by base.patch 16"),
        ({"model__image": "google/vit", "model__text": None}, "model.text is null but the other tower is named"),
        ({"model__image": None, "model__text": "bert"}, "model.image is null but the other tower is named"),
        (
            {"targets__name": "albef", "loss__name": "triplet"},
            "targets.name albef: loss.name triplet compares with the own pair only; use infonce",
        ),
        (SOFT | {"sampler__known_positives": "diagonal"}, "targets.name albef: sampler.known_positives diagonal makes"),
        (SOFT | {"memory__size": 0}, "targets.name albef: memory.size 0 has no momentum towers to learn from"),
        (
            SOFT | {"targets__weight": 1.5},
            "targets.name albef: targets.weight 1.5 is a share of the target; use 1 or less",
        ),
        (SOFT | {"loss__debias": 0.1}, "targets.name albef: loss.debias 0.1 corrects for one target"),
        (
            SOFT | {"sampler__drop": 0.1},
            "targets.name albef: sampler.drop 0.1 leaves candidates out of the denominator",
        ),
        (SOFT | {"sampler__strategy": "fne"}, "targets.name albef: sampler.strategy fne leaves candidates out of the"),
        (SOFT | {"targets__name": "sinkhorn"}, "targets.name sinkhorn: memory.size 1024: the plan is one of a batch"),
        (SOFT | {"targets__name": "xclr"}, "targets.name xclr: compares captions by a frozen encoder; add captions to"),
        (
            ENCODED | SOFT | {"targets__name": "cusa"},
            "targets.name cusa: compares images by a frozen encoder; add regression or similarity to",
        ),
        (
            {"loss__debias": 0.1, "loss__name": "triplet"},
            "loss.debias 0.1: corrects loss.name infonce; with triplet use null",
        ),
        ({"sampler__strategy": "lg"}, "sampler.strategy lg: compares captions by a frozen encoder; add captions to"),
        (
            {"sampler__strategy": "gist", "sampler__guide": "regression"},
            "sampler.guide regression: evidence.kinds lacks",
        ),
        (
            {"sampler__strategy": "gist", "evidence__kinds": [], **UNPOSTERIOR},
            "sampler.strategy gist: evidence.kinds is empty; name a kind, for example [words]",
        ),
        ({"sampler__strategy": "semi_hard", "loss__margin": 0}, "sampler.strategy semi_hard needs loss.margin above 0"),
        ({"model__train": "heads", "train__augment": "fne"}, "train.augment fne: model.train heads"),
        ({"model__standardise": True}, "model: standardise True: train towers has no heads"),
        ({"model__dropout": 0.5}, "model: dropout 0.5: train towers has no heads"),
        ({"evidence__kinds": ["captions"]}, "evidence.text: null, and model.train towers freezes no features: name"),
        ({"evidence__kinds": ["pictures"], "evidence__text": "bert"}, "evidence.image: null, and model.train towers"),
        ({"evidence__kinds": ["regression"]}, "evidence.text and evidence.image: null, and model.train towers"),
        ({"evidence__text": "bert"}, "evidence: text bert: no kind in `kinds` uses it; add one of captions, regress"),
        ({"model__anchor": "cca"}, "model: anchor cca: train towers has no heads"),
        ({"train__epochs": 0, "base__epochs": 0}, "train.epochs 0: these towers match nothing"),
        ({"train__epochs": 0, "data__name": "flickr8k"}, "train.epochs 0: these towers match nothing"),
        ({"train__epochs": 0, "model__train": "heads"}, "train.epochs 0: these towers match nothing"),
        ({"model__family": "clip", "model__text_revision": "main"}, "model.text_revision: a CLIP holds both towers"),
        ({"train__epochs": 0, "model__width": 32}, "model.width 32: adds projections with random weights"),
        ({"model__family": "clip", "model__pooling": "mean_all"}, "model.pooling mean_all: a CLIP's towers pool by"),
        ({"train__batch_size": 1, "memory__size": 0}, "train.batch_size 1: a pair alone has no negative"),
        ({"train__batch_size": 1, "train__warmup_epochs": 5}, "train.batch_size 1: a pair alone has no negative"),
    ],
)
def test_values_that_do_not_fit_together_are_named(changes: dict[str, Any], message: str) -> None:
    assert complaint(**changes).startswith(f"params.yaml: {message}")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model__family": "clip", "model__train": "heads"},
        {"model__train": "heads", "model__anchor": "cca"},
        {"model__image": "mine/image", "model__text": "mine/text", "data__name": "flickr8k"},
    ],
)
def test_what_matches_untrained_may_stay_untrained(changes: dict[str, Any]) -> None:
    parse_params(content_with(train__epochs=0, **changes))


def test_a_batch_of_one_may_learn_from_the_memory() -> None:
    parse_params(content_with(train__batch_size=1, memory__size=8))


def test_towers_from_a_hub_may_have_any_image_size() -> None:
    parse_params(content_with(model__image="google/vit", model__text="bert", model__image_size=60))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: [1", "not readable as YAML"),
        ("seed: 1\nseed: 2", "not readable as YAML: .*duplicate key"),
        ("- 1\n- 2", "found list, expected sections: seed, data"),
        ("", "found NoneType, expected sections"),
        ("just words", "found str, expected sections"),
    ],
)
def test_what_is_no_parameter_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}: {message}") as refusal:
        load_params(path)
    assert "\n" not in str(refusal.value)


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_bytes(b"seed: \xff\xfe")
    with pytest.raises(InputError, match=r"p\.yaml: not readable as YAML"):
        load_params(tmp_path / "p.yaml")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"p\.yaml: not found; run from the repository's root"):
        load_params(tmp_path / "p.yaml")


def test_numbers_may_be_written_as_people_write_them() -> None:
    loader = YAML(typ="safe", pure=True)
    for text, value in (("2e-5", 2e-5), ("1E-3", 1e-3), ("1", 1), ("0.5", 0.5)):
        assert parse_params(content_with(train__lr=loader.load(text))).train.lr == value


def test_dotted_names_are_those_of_the_file() -> None:
    def leaves(value: Any, prefix: str = "") -> dict[str, Any]:
        if not isinstance(value, dict):
            return {prefix: value}
        return {
            k: v for key, item in value.items() for k, v in leaves(item, f"{prefix}.{key}" if prefix else key).items()
        }

    assert dotted(load_params(FILE)) == leaves(content_with())


def test_valid_names_are_the_dotted_ones_and_their_sections() -> None:
    names = set(dotted(load_params(FILE)))
    sections = {name.rsplit(".", depth)[0] for name in names for depth in (1, 2) if name.count(".") >= depth}
    assert set(valid_names(Params)) == names | sections
    assert len(valid_names(Params)) == len(set(valid_names(Params)))


def test_every_key_of_the_file_has_a_comment_or_its_section_has() -> None:
    sections: list[tuple[int, bool]] = []  # those that a line lies in: how far indented, and whether commented
    bare = []
    for line in FILE.read_text(encoding="utf-8").splitlines():
        found = re.match(r"( *)(\w+):([^#]*)(#?)", line)
        if found is None:
            continue
        indent, commented = len(found[1]), bool(found[4])
        sections = [section for section in sections if section[0] < indent]
        if not found[3].strip():
            sections.append((indent, commented))
        elif not commented and not any(said for _, said in sections):
            bare.append(line.strip())
    assert bare == []


@pytest.mark.parametrize("path", ["/data/Bücher", "/data/set (1)", "/data/x=y", "/data/a,b", "/data/[x]{y}#1"])
def test_any_path_can_be_given_to_dvc_as_the_docs_say(path: str, tmp_path: Path) -> None:
    from dvc.utils.hydra import apply_overrides

    assert """-S 'data.root="/data/Bücher (1)"'""" in (FILE.parent / "docs/data.md").read_text(encoding="utf-8")
    shutil.copy(FILE, tmp_path)
    apply_overrides(tmp_path / "params.yaml", ["data.name=folder", f'data.root="{path}"'])
    assert load_params(tmp_path / "params.yaml").data.root == path
