"""The page's footer: the same in two reports of one result where the date is given."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from pipeline.errors import InputError
from pipeline.report.audit import made_by


def test_the_date_is_that_of_source_date_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86399.5")
    assert ("date", "1970-01-01 23:59 UTC") in made_by("make", "", "abc")


@pytest.mark.parametrize("given", ["noon", "nan", "1e20"])
def test_a_date_that_is_none_is_refused(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", given)
    with pytest.raises(InputError, match=f"SOURCE_DATE_EPOCH='{given}': expected the seconds since 1970"):
        made_by("make", "", "")


def test_the_date_is_now_where_nothing_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    when = datetime.strptime(dict(made_by("make", "", ""))["date"], "%Y-%m-%d %H:%M UTC").replace(tzinfo=UTC)
    assert abs(datetime.now(UTC) - when) < timedelta(minutes=2)
