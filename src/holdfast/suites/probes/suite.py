"""Probes as a suite: every split holds the same questions, all of them to test with."""

from __future__ import annotations

from holdfast.rollout.worlds import SilentWorld
from holdfast.study.kinds import Suite
from holdfast.study.sections import SuiteSection
from holdfast.suites import probes
from holdfast.suites.office.demonstrations import MIXTURE, check_mixture
from holdfast.suites.office.suite import teach
from holdfast.suites.probes.items import SUITE as NAME


def _check(table: SuiteSection) -> None:
    check_mixture(table.mixture or MIXTURE)
    probes.check_suite(table)


SUITE = Suite(
    name=NAME,
    table=SuiteSection,
    check=_check,
    split=lambda table, _: {"train": [], "test": probes.draw_suite(table)},
    open_world=lambda _: SilentWorld(),
    version=None,
    why="its questions have no tools; remove suite.world",
    shared=True,
    teach=teach,
    fit_judge=probes.fit_judge,
    decides=frozenset({"digest", "split", "world", "source"}),
)
