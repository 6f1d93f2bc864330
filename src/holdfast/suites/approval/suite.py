"""Users alone as a suite: its cases are those of ``[approval]``, which stand beside those of any suite."""

from __future__ import annotations

from collections.abc import Mapping

from holdfast.records import Case
from holdfast.rollout.worlds import World
from holdfast.study.kinds import Suite
from holdfast.study.sections import SuiteSection
from holdfast.suites.approval.scenarios import SUITE as NAME
from holdfast.suites.office.suite import check_drawn


def _split(_: SuiteSection, __: int) -> Mapping[str, list[Case]]:
    return {"train": [], "test": []}


def _open_world(_: SuiteSection) -> World:
    from holdfast.rollout.worlds.approval import ApprovalWorld

    return ApprovalWorld()


SUITE = Suite(
    name=NAME,
    table=SuiteSection,
    check=check_drawn,
    split=_split,
    open_world=_open_world,
    version=None,
    shared=True,
    has_cases=False,
    decides=frozenset({"digest", "split", "world"}),
)
