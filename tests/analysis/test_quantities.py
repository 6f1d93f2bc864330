"""The one table of quantities: whole, without doubles, and known for all that an analysis says."""

from __future__ import annotations

import json
from itertools import chain

import pytest
from builders import condition_samples as conditions
from builders import report_samples as samples

from holdfast.analysis import document
from holdfast.records import Flag
from holdfast.records.quantities import FLAGS, GROUPS, QUANTITIES, Format, quantity_of


def test_every_quantity_is_declared_once() -> None:
    assert len(QUANTITIES) == sum(map(len, GROUPS))
    assert [one.kind for one in FLAGS] == [flag.value for flag in Flag]


@pytest.mark.parametrize("analysis", [samples.make_analysis(), conditions.make_conditions()])
def test_every_number_of_an_analysis_has_its_quantity(analysis) -> None:  # type: ignore[no-untyped-def]
    rows = [one for one in chain(*document(analysis).values()) if isinstance(one, dict) and "value" in one]
    assert rows and {one["kind"] for one in rows} <= set(QUANTITIES), json.dumps(rows[0])


def test_shares_and_their_changes_know_their_range_and_what_has_no_name_is_called_by_its_kind() -> None:
    for one in QUANTITIES.values():
        assert one.span == (0.0, 1.0) or one.format is not Format.SHARE, one.kind
        assert one.change or one.format is not Format.SHARE_CHANGE, one.kind
    assert quantity_of("balance_weight").head == "Balance weight"
