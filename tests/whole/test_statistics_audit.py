"""The tables of the audit keep their bounds; the draws that this takes are too many for the ordinary suite."""

from __future__ import annotations

import importlib

import pytest
from audit import list_items

pytestmark = pytest.mark.full


@pytest.mark.parametrize(("item", "name"), list_items().items(), ids=list(list_items()))
def test_every_figure_of_an_item_keeps_its_bounds(item: str, name: str) -> None:
    rows = importlib.import_module(f"audits.{name}").measure(1.0)
    assert rows, item
    assert any(row.low is not None or row.high is not None for row in rows), item
    assert not [row for row in rows if not row.holds]
