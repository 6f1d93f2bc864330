"""Estimates as tables, figures, one HTML page and terminal text; what a model wrote is shown and never acts."""

from holdfast.report.page.page import write_report

__all__ = ["write_report"]
