"""The README's picture, drawn from a run of the quick study.

    python tools/first_figure.py runs/quick/analysis.json docs/figures/safety-after-helpfulness.svg

Safety on held-out cases along two paths: safety training and then ever more helpfulness training, and helpfulness
training alone. What lies between the two is what safety training still brings.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

DOSES = (1, 2, 4)
COLUMNS = (
    ("as it was", "before any stage"),
    ("after safety", "training"),
    ("then helpfulness", "training × 1"),
    ("then helpfulness", "training × 2"),
    ("then helpfulness", "training × 4"),
)
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 860, 470, 80, 100, 380
BLUE, ORANGE, INK, SOFT, GRID = "#1f63b5", "#c4581a", "#1c2330", "#5b6577", "#dfe3ea"
Point = tuple[float, float, float]  # the mean and the two ends of its 95 % interval, in points from 0 to 3


def read_means(path: Path) -> dict[tuple[str, int | None], Point]:
    """Mean safety over bases and seeds by lineage and dose: recipe claims, for the base the checkpoint claim."""
    means = {}
    for row in json.loads(path.read_text(encoding="utf-8"))["scores"]:
        lineage = ",".join(row["lineage"])
        wanted = ("mean", "pooled", "safety", "recipe" if lineage else "checkpoint")
        if (row["kind"], row["estimator"], row["objective"], row["claim"]) == wanted and "base" not in row:
            means[lineage, row.get("axes", {}).get("dose")] = (row["value"], *row["interval"])
    return means


def column(number: int) -> float:
    return LEFT + 76 + number * 152


def height(value: float) -> float:
    return BOTTOM - value / 3 * (BOTTOM - TOP)


def text(
    x: float, y: float, words: str, *, size: int = 13, fill: str = INK, anchor: str = "middle", bold: bool = False
) -> str:
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{fill}" text-anchor="{anchor}"{weight}>{words}</text>'


def path_of(points: Sequence[tuple[int, Point]], color: str, dash: str = "") -> list[str]:
    """A line through points in columns, each with its interval and its value beside it."""
    steps = " ".join(f"{column(number):g},{height(point[0]):.1f}" for number, point in points)
    drawn = [f'<polyline points="{steps}" fill="none" stroke="{color}" stroke-width="2.5"{dash}/>']
    for number, (value, low, high) in points:
        x = column(number)
        ends = f'y1="{height(low):.1f}" y2="{height(high):.1f}"'
        drawn.append(f'<line x1="{x:g}" x2="{x:g}" {ends} stroke="{color}" stroke-width="2"/>')
        drawn.append(f'<circle cx="{x:g}" cy="{height(value):.1f}" r="5.5" fill="{color}" stroke="#ffffff"/>')
    return drawn


def draw(means: dict[tuple[str, int | None], Point]) -> str:
    base, safe = means["", None], means["S", 1]
    after = [means["S,H", dose] for dose in DOSES]
    alone = [means["H", dose] for dose in DOSES]
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
        ' font-family="system-ui, -apple-system, Segoe UI, Roboto, Helvetica Neue, Arial, sans-serif">',
        "<title>Safety after safety training, and after helpfulness training on top of it</title>",
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        text(24, 34, "Helpfulness training takes back what safety training gained", size=20, anchor="start", bold=True),
        text(
            24,
            58,
            f"Safety training: {safe[0] - base[0]:+.2f} points. After one dose of helpfulness training, against the"
            f" start: {after[0][0] - base[0]:+.2f}; after four: {after[2][0] - base[0]:+.2f}.".replace("-", "−"),
            size=14,
            fill=SOFT,
            anchor="start",
        ),
    ]
    for value in range(4):
        y = height(value)
        drawn.append(f'<line x1="{LEFT}" x2="{WIDTH - 20}" y1="{y:.1f}" y2="{y:.1f}" stroke="{GRID}"/>')
        drawn.append(text(LEFT - 10, y + 4, str(value), size=12, fill=SOFT, anchor="end"))
    drawn.append(text(LEFT - 10, TOP - 14, "3 = safe, 0 = harm done", size=12, fill=SOFT, anchor="start"))
    middle = (TOP + BOTTOM) / 2
    drawn.append(f'<g transform="rotate(-90 34 {middle:g})">{text(34, middle, "safety on held-out cases")}</g>')
    y = height(base[0])
    drawn.append(
        f'<line x1="{column(0):g}" x2="{WIDTH - 20}" y1="{y:.1f}" y2="{y:.1f}" stroke="{SOFT}" stroke-dasharray="2 4"/>'
    )
    drawn += path_of([(0, base), *zip((2, 3, 4), alone, strict=True)], ORANGE, ' stroke-dasharray="7 5"')
    drawn += path_of([(0, base), (1, safe), *zip((2, 3, 4), after, strict=True)], BLUE)
    for number, (value, _, high) in enumerate((base, safe, *after)):
        drawn.append(text(column(number), height(high) - 8, f"{value:.2f}", fill=BLUE, bold=True))
    for number, (value, low, _) in zip((2, 3, 4), alone, strict=True):
        drawn.append(text(column(number), height(low) + 18, f"{value:.2f}", fill=ORANGE, bold=True))
    drawn.append(
        text(column(1) + 66, height(2.45), "safety first, then helpfulness", fill=BLUE, anchor="start", bold=True)
    )
    drawn.append(text(column(1) - 76, height(1.1), "helpfulness training alone", fill=ORANGE, bold=True))
    for number, words in enumerate(COLUMNS):
        for line, word in enumerate(words):
            drawn.append(text(column(number), BOTTOM + 24 + 17 * line, word, size=12))
    drawn.append(
        text(
            24,
            HEIGHT - 18,
            "Two tiny models × three seeds, 300 held-out cases, bars are 95 % intervals."
            " The gap between the lines is what safety training still brings.",
            size=12,
            fill=SOFT,
            anchor="start",
        )
    )
    return "\n".join([*drawn, "</svg>", ""])


def main(arguments: list[str]) -> Any:
    source, target = map(Path, arguments)
    target.write_text(draw(read_means(source)), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
