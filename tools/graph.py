"""The import graph of the package's rooms as an SVG: ``python tools/graph.py docs/figures/house.svg``.

A room stands above all that it imports; rooms that import each other in a circle share a floor and a red border. A
line's width and number say how many modules of the upper room import from the lower one, whatever the import is for.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "holdfast"
WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN = 118, 40, 22, 70, 30
FACE = "the face"

Arrows = dict[tuple[str, str], int]


def read_rooms(source: Path = SOURCE) -> tuple[dict[str, int], Arrows]:
    """Lines by room, and how many modules of one room import from another."""
    lines: dict[str, int] = defaultdict(int)
    found: Arrows = defaultdict(int)
    rooms = {path.stem if path.is_file() else path.name for path in source.iterdir() if path.name != "__pycache__"}
    for path in sorted(source.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        here = room_of(path.relative_to(source).parts[0].removesuffix(".py"))
        lines[here] += text.count("\n")
        for there in {room_of(name if name in rooms else "__init__") for name in read_imports(ast.parse(text))} - {
            here
        }:
            found[here, there] += 1
    return dict(lines), dict(found)


def room_of(name: str) -> str:
    """What a top-level module or package is called in the graph."""
    return FACE if name == "__init__" else name


def read_imports(tree: ast.Module) -> set[str]:
    """First names below ``holdfast`` that a module imports, inside functions and for type checkers too."""
    found = set()
    for node in ast.walk(tree):
        modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if modules == ["holdfast"]:
            modules = [f"holdfast.{alias.name}" for alias in getattr(node, "names", ())]
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        found |= {name.split(".")[1] for name in modules if name.startswith("holdfast.")}
    return found


def find_circles(nodes: Iterable[str], arrows: Arrows) -> dict[str, frozenset[str]]:
    """The circle that each node stands in; itself alone where it stands in none."""
    reach = {node: {node} for node in nodes}
    changed = True
    while changed:
        changed = False
        for upper, lower in arrows:
            if not reach[lower] <= reach[upper]:
                reach[upper] |= reach[lower]
                changed = True
    return {node: frozenset(other for other in reach[node] if node in reach[other]) for node in reach}


def stack_floors(circles: Mapping[str, frozenset[str]], arrows: Arrows) -> dict[str, int]:
    """Each node's floor: one above the highest that it imports, outside its own circle."""
    floor = dict.fromkeys(circles, 0)
    for _ in floor:
        for upper, lower in arrows:
            if circles[upper] != circles[lower]:
                least = max(floor[lower] + 1, floor[upper])
                for one in circles[upper]:
                    floor[one] = max(floor[one], least)
    return floor


def draw(lines: Mapping[str, int], arrows: Arrows) -> str:
    """The whole figure."""
    circles = find_circles(lines, arrows)
    floor = stack_floors(circles, arrows)
    rows = [sorted(one for one in lines if floor[one] == level) for level in range(max(floor.values()) + 1)]
    width = max(len(row) for row in rows) * (WIDTH + GAP_X) + 2 * MARGIN
    height = len(rows) * (HEIGHT + GAP_Y) + 2 * MARGIN
    place = {}
    for level, row in enumerate(rows):
        left = (width - len(row) * (WIDTH + GAP_X) + GAP_X) / 2
        for index, name in enumerate(row):
            place[name] = (left + index * (WIDTH + GAP_X), height - MARGIN - HEIGHT - level * (HEIGHT + GAP_Y))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" font-family="sans-serif">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
    ]
    for (upper, lower), count in sorted(arrows.items()):
        (x1, y1), (x2, y2) = place[upper], place[lower]
        circle = circles[upper] == circles[lower]
        start, end = (y1 + HEIGHT, y2) if y1 < y2 else (y1 + HEIGHT / 2, y2 + HEIGHT / 2)
        parts.append(
            f'<line x1="{x1 + WIDTH / 2:g}" y1="{start:g}" x2="{x2 + WIDTH / 2:g}" y2="{end:g}"'
            f' stroke="{"#c0392b" if circle else "#98a2b3"}" stroke-width="{min(0.6 + count / 8, 4):.2g}"'
            f' stroke-opacity="0.7"><title>{escape(f"{upper} → {lower}: {count} modules")}</title></line>'
        )
    for name, (x, y) in sorted(place.items()):
        border = "#c0392b" if len(circles[name]) > 1 else "#087f6f"
        parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="#f6f8fa" stroke="{border}"/>'
            f'<text x="{x + WIDTH / 2:g}" y="{y + 18:g}" text-anchor="middle" font-size="13">{escape(name)}</text>'
            f'<text x="{x + WIDTH / 2:g}" y="{y + 33:g}" text-anchor="middle" font-size="10" fill="#667085">'
            f"{lines[name]:,} lines</text>"
        )
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    """Write the figure and say in one line what it shows."""
    lines, arrows = read_rooms()
    circles = {one for one in find_circles(lines, arrows).values() if len(one) > 1}
    floors = max(stack_floors(find_circles(lines, arrows), arrows).values()) + 1
    Path(sys.argv[1]).write_text(draw(lines, arrows), encoding="utf-8")
    figures = f"{len(lines)} boxes, {floors} floors, {len(arrows)} arrows, {len(circles)} circles"
    sys.stdout.write(f"{figures}, {sum(lines.values()):,} lines\n")


if __name__ == "__main__":
    main()
