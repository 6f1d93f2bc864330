"""Users alone as a suite: its cases are those of ``[approval]``, which stand beside those of any suite."""

from __future__ import annotations

from holdfast.rollout.worlds.approval import ApprovalWorld
from holdfast.study.kinds import Suite
from holdfast.study.sections import SuiteSection
from holdfast.suites.approval.scenarios import SUITE as NAME
from holdfast.suites.office.suite import check_drawn

SUITE = Suite(
    name=NAME,
    table=SuiteSection,
    check=check_drawn,
    split=lambda *_: {"train": [], "test": []},
    open_world=lambda _: ApprovalWorld(),
    version=None,
    shared=True,
    has_cases=False,
    decides=frozenset({"digest", "split", "world"}),
)
