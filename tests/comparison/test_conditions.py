"""Conditions as people type them."""

from __future__ import annotations

import pytest

from pipeline.comparison.conditions import parse_condition, same_value
from pipeline.errors import InputError

PARAMS = {
    "sampler.strategy": "fne",
    "sampler.cutdown": "0.10",
    "memory.size": "1024",
    "train.milestones": "[4, 8]",
    "evaluate.hubness": "False",
    "evidence.kinds": "['words', 'near']",
}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("sampler.strategy=fne", True),
        ("sampler.strategy = hardest,fne", True),
        ("sampler.strategy!=fne", False),
        ("sampler.cutdown=0.1", True),
        ("sampler.cutdown=1e-1", True),
        ("sampler.cutdown<0.1", False),
        ("sampler.cutdown<=0.1", True),
        ("memory.size>512", True),
        ("memory.size>=2e3", False),
        ("train.milestones=[4, 8]", True),
        ("train.milestones=[4,8]", True),
        ("train.milestones!=[4,8]", False),
        ("train.milestones=[4]", False),
        ("train.milestones=[4,9]", False),
        ("train.milestones=4", False),
        ("evidence.kinds=[words,near]", True),
        ('evidence.kinds=["words", "near"]', True),
        ("evidence.kinds=[near,words]", False),
        ("evidence.kinds=[]", False),
        ("sampler.strategy>1", False),
        ("sampler.strategy=FNE", False),
        ("evaluate.hubness=false", True),
        ("evaluate.hubness=true", False),
        ("evaluate.hubness!=true", True),
    ],
)
def test_a_condition_holds_by_meaning(text: str, holds: bool) -> None:
    assert parse_condition(text, PARAMS).holds(PARAMS) == holds


def test_a_parameter_that_a_run_lacks_is_equal_to_nothing() -> None:
    assert not parse_condition("memory.size=1024", PARAMS).holds({})
    assert parse_condition("memory.size!=1024", PARAMS).holds({})
    assert not parse_condition("memory.size<5000", PARAMS).holds({})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sampler.cutdwn=1", "the nearest one is sampler.cutdown"),
        ("fne", "expected a parameter and a value"),
        ("memory.size<many", "'many' is no number"),
    ],
)
def test_what_is_no_condition_is_refused(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_condition(text, PARAMS)


def test_numbers_are_the_same_however_written() -> None:
    assert same_value("1e-4", "0.0001")
    assert not same_value("nan", "inf")
    assert not same_value(None, "0")
