"""Tables for a terminal, and for files that are as wide as one."""

from __future__ import annotations

import io
import shutil
import textwrap
from collections.abc import Iterable, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from holdfast.report.words.inert import show_line
from holdfast.report.words.tables import Table

HEAD_WIDTH = 16  # columns of a head over numbers, before it takes another line
LEAST_WORDS = 12  # columns of a column of words, before numbers go into a table below
GAP = 2  # columns between two
NARROWEST, USUAL, WIDEST = 80, 100, 140  # columns of what is printed; usual where there is no terminal


def terminal_width(widest: int = WIDEST) -> int:
    """How many columns results may take: those of the terminal, at least 80 and at most ``widest``."""
    return min(max(shutil.get_terminal_size((USUAL, 24)).columns, NARROWEST), widest)


def table_text(table: Table, width: int) -> str:
    """The table as plain text in at most ``width`` columns, without what a terminal would obey.

    No cell is cut: words take several lines, and columns of numbers that have no room stand in a further table below,
    each with the columns of words before it.
    """
    return rows_text(table.columns, ([cell.text for cell in row] for row in table.rows), width, words=table.words)


def rows_text(heads: Sequence[str], rows: Iterable[Sequence[str]], width: int, *, words: int = 1) -> str:
    """Heads and rows of texts as ``table_text`` writes them; the first ``words`` columns hold words, others numbers."""
    columns = [[show_line(text) for text in column] for column in zip(heads, *rows, strict=True)]
    natural = [max(map(cell_len, column)) for column in columns]
    # Heads of numbers are far wider than numbers, and take several lines.
    for number in range(words, len(columns)):
        head, *cells = columns[number]
        room = max([HEAD_WIDTH, *map(cell_len, cells)])
        natural[number] = max(map(cell_len, [*textwrap.wrap(head, room), *cells]), default=0)
    room = width - sum(min(each, LEAST_WORDS) + GAP for each in natural[:words])
    blocks: list[list[int]] = [[]]
    left = room
    for number in range(words, len(columns)):
        if blocks[-1] and natural[number] > left:
            blocks.append([])
            left = room
        blocks[-1].append(number)
        left -= natural[number] + GAP

    def draw(numbers: Sequence[int]) -> str:
        """The columns of words beside some of numbers, a rule below their heads."""
        grid = Grid(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0))
        for column in columns[:words]:
            grid.add_column(Text(column[0]), overflow="fold")
        for number in numbers:
            grid.add_column(Text(columns[number][0]), justify="right", width=natural[number])
        for cells in list(zip(*columns[:words], *(columns[number] for number in numbers), strict=True))[1:]:
            grid.add_row(*map(Text, cells))
        page = io.StringIO()
        Console(file=page, width=width, color_system=None, force_terminal=False).print(grid)
        return "\n".join(line.rstrip() for line in page.getvalue().splitlines())

    return "\n\n".join(map(draw, blocks))
