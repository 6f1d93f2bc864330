"""The main figures as PDF, by matplotlib: needs the ``plot`` extra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from holdfast.records import Analysis, Estimate, Frontier, Unbounded
from holdfast.records.errors import MissingExtra
from holdfast.records.quantities import NOT_IDENTIFIED
from holdfast.report.draw.figures import CHI_SQUARE_95, DASHES, mean_points, pair_lines
from holdfast.report.draw.svg import SERIES
from holdfast.report.words.inert import file_name, show_line, trim_text
from holdfast.report.words.labels import name_kind, name_lineage, name_subject, split_levels

Lineage = tuple[str, ...]
LABEL_CHARACTERS = 80
MARKERS = ("o", "s", "D", "^", "v", "h")
LINES = {None: "-", "6 4": "--", "2 3": ":", "8 3 2 3": "-."}


def _figure(width: float, height: float) -> tuple[Any, Any]:
    """A figure and its axes in inches, without a window system or global state. Errors: MissingExtra."""
    try:
        from matplotlib.backends.backend_pdf import FigureCanvasPdf
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("a figure as PDF", "plot") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasPdf(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _plain(words: str) -> str:
    """Words without matplotlib's own markup, cut where they would leave no room for the plot."""
    kept, left_out = trim_text(show_line(words), LABEL_CHARACTERS)
    return (f"{kept}…" if left_out else kept).replace("$", r"\$")


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, format="pdf", metadata={"CreationDate": None})


def write_frontier_pdf(frontier: Frontier, colors: Mapping[Lineage, int], path: Path) -> None:
    """Write the frontier plot: points with 95 % ellipses, arrows, lines. Errors: MissingExtra."""
    figure, axes = _figure(6.4, 4.4)
    bases = list(dict.fromkeys(point.base for point in frontier.points if point.base))
    turn = np.linspace(0, 2 * np.pi, 60)
    for point in frontier.points:
        color = SERIES[colors.get(point.lineage, 0) % len(SERIES)]
        marker = MARKERS[(bases.index(point.base) if point.base in bases else 0) % len(MARKERS)]
        axes.plot(point.x, point.y, marker, color=color, markersize=3, alpha=0.7)
        if point.covariance is not None and np.all(np.isfinite(point.covariance)):
            xx, xy, yy = point.covariance
            values, vectors = np.linalg.eigh(np.array([[xx, xy], [xy, yy]]))
            radii = np.sqrt(np.clip(values, 0, None) * CHI_SQUARE_95)[:, None]
            edge = vectors @ (radii * np.stack([np.cos(turn), np.sin(turn)]))
            axes.plot(point.x + edge[0], point.y + edge[1], color=color, linewidth=0.5, alpha=0.5)
    _draw_means(axes, frontier, colors)
    low, high = axes.get_xlim()
    limits = axes.get_ylim()
    for number, (words, slope, intercept) in enumerate(pair_lines(frontier)):
        ends = np.array([low, high])
        style = LINES[DASHES[number % len(DASHES)]]
        axes.plot(ends, slope * ends + intercept, style, color="#667085", linewidth=1, label=_plain(words))
    axes.set_xlim(low, high)
    axes.set_ylim(*limits)
    prefix = "change of " if frontier.relative else ""
    axes.set_xlabel(_plain(f"{prefix}{frontier.x_objective} (points)"))
    axes.set_ylabel(_plain(f"{prefix}{frontier.y_objective} (points)"))
    if pair_lines(frontier):
        axes.legend(frameon=False, fontsize=7)
    _save(figure, path)


def _draw_means(axes: Any, frontier: Frontier, colors: Mapping[Lineage, int]) -> None:
    means = mean_points(frontier)
    for lineage, point in means.items():
        color = SERIES[colors.get(lineage, 0) % len(SERIES)]
        parent = means.get(lineage[:-1]) if lineage else None
        if parent is not None:
            arrow = {"arrowstyle": "->", "color": color, "shrinkA": 6, "shrinkB": 6, "alpha": 0.8}
            axes.annotate("", (point.x, point.y), (parent.x, parent.y), arrowprops=arrow)
        axes.plot(point.x, point.y, "o", color=color, markersize=8, markeredgecolor="white")
        name = _plain(name_lineage(lineage))
        axes.annotate(
            name, (point.x, point.y), xytext=(7, 3), textcoords="offset points", fontweight="bold", fontsize=9
        )


def write_forest_pdf(estimates: Sequence[Estimate], path: Path) -> None:
    """Write estimates of one kind as a forest plot. Errors: MissingExtra."""
    figure, axes = _figure(6.8, 0.8 + 0.28 * len(estimates))
    values = [one.value for one in estimates if one.value is not None] or [0.0]
    low, high = min([*values, 0.0]) - 0.5, max([*values, 1.0]) + 0.5
    for row, one in enumerate(estimates):
        color = SERIES[2 if one.claim == "recipe" else 1]
        if one.value is None:
            axes.text((low + high) / 2, row, NOT_IDENTIFIED, ha="center", va="center", style="italic", fontsize=7)
            continue
        if isinstance(one.interval, Unbounded):
            axes.plot([low, high], [row, row], ":", color=color)
        elif one.interval is not None:
            axes.plot(np.clip(one.interval, low, high), [row, row], "-", color=color)
        axes.plot(one.value, row, "s" if one.claim == "recipe" else "o", color=color, markersize=5)
    axes.set_xlim(low, high)
    axes.set_yticks(range(len(estimates)), [_plain(f"{name_subject(one)} ({one.estimator})") for one in estimates])
    axes.tick_params(labelsize=7)
    axes.set_ylim(len(estimates) - 0.5, -0.5)
    for mark in (0.0, 1.0):
        axes.axvline(mark, color="#c9ced8", linewidth=0.8, zorder=0)
    axes.set_xlabel(_plain(name_kind(estimates[0].kind)), fontsize=8)
    _save(figure, path)


def write_pdfs(analysis: Analysis, colors: Mapping[Lineage, int], folder: Path) -> list[str]:
    """Write every frontier and the most pooled forest of each kind; returns file names. Errors: MissingExtra."""
    written = []
    for number, frontier in enumerate(analysis.frontiers):
        name = "frontier.pdf" if number == 0 else f"frontier-{number + 1}.pdf"
        write_frontier_pdf(frontier, colors, folder / name)
        written.append(name)
    for kind in dict.fromkeys(one.kind for one in analysis.persistence if not one.beside):
        level = next(iter(split_levels(one for one in analysis.persistence if one.kind == kind).values()))
        name = f"{file_name(kind)}.pdf"
        write_forest_pdf(level, folder / name)
        written.append(name)
    return written
