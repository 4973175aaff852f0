"""The catalogue: every entry can be named in params.yaml, and everything in it is complete."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.data.acquire.sources import SOURCES, Source, coco_identity
from pipeline.params import parse_params
from tests.data.published import PARAMS


def params(**data: str) -> Any:
    content = YAML(typ="safe").load(PARAMS.read_text())
    content["data"]["repository"] = "owner/name" if data["name"] == "hub" else None
    content["data"] |= data
    return parse_params(content)


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_and_its_layouts_can_be_named_in_params_yaml(name: str) -> None:
    assert params(name=name).data.name == name
    for layout in SOURCES[name].layouts.keys() - {"scenes"}:
        assert params(name=name, annotations=layout).data.annotations == layout


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_every_source_says_whose_it_is_and_how_to_get_it(source: Source) -> None:
    assert source.title
    assert source.licence
    assert source.citation
    for item in (*source.images, *(item for layout in source.layouts.values() for item in layout.items)):
        assert item.address.startswith(("https://", "http://images.cocodataset.org/"))
        assert item.sha256 is None or re.fullmatch("[0-9a-f]{64}", item.sha256)
    assert "scan" not in source.layouts or source.scan_image("7").endswith(".jpg")


def test_the_names_of_a_coco_image_mean_one_picture() -> None:
    names = ("val2014/COCO_val2014_000000391895.jpg", "COCO_2014_000000391895.jpg", "images/000000391895.jpg")
    assert {coco_identity(name) for name in names} == {"000000391895"}
