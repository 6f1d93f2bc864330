"""Where HOLDFAST_NO_SKIPS is set, a skipped test makes the session fail: everything that a test needs is there."""

from __future__ import annotations

import os

import pytest
from _pytest.terminal import TerminalReporter

SWITCH = "HOLDFAST_NO_SKIPS"


def skipped(config: pytest.Config) -> list[str]:
    """Ids of skipped tests and modules; only the process that reports knows them, also under xdist."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if not os.environ.get(SWITCH) or not isinstance(reporter, TerminalReporter):
        return []
    return [report.nodeid for report in reporter.stats.get("skipped", [])]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A session that would have passed fails; other ends keep their exit code."""
    passing = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
    if session.exitstatus in passing and skipped(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Name what was skipped."""
    if names := skipped(terminalreporter.config):
        terminalreporter.section(f"skipped, and {SWITCH} is set", red=True)
        for name in names:
            terminalreporter.line(name)
