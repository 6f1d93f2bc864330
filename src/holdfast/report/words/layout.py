"""What a report is made of: what it shows, and sections of paragraphs, lists, figures and tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from holdfast.records import Analysis, Checkpoint, Verdict
from holdfast.report.words.inert import escape_html, file_name, wrap_lines
from holdfast.report.words.labels import Lineage
from holdfast.report.words.tables import Table, table_html

COUNTED_ONLY = (
    "These numbers have no interval: they count the episodes at hand, and that two of them differ is no finding."
)
MOST_SENTENCES = 8  # of one block in a terminal


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a report shows: an analysis, the colour number of every lineage, and what stands beside the numbers.

    ``users`` are the simulated users of a run (``sections/approval/examples.Users``), None where there are none.
    """

    analysis: Analysis
    colors: Mapping[Lineage, int]
    checkpoints: Sequence[Checkpoint] = ()
    verdicts: Sequence[Verdict] = ()
    users: Any = None


@dataclass(slots=True, kw_only=True)
class Section:
    """A part of the page, put together piece by piece; figures (SVG text) and tables are also written as files.

    ``short`` is its name in the navigation.
    """

    identity: str
    title: str
    short: str
    parts: list[str] = field(default_factory=list)
    figures: dict[str, str] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)

    @property
    def html(self) -> str:
        """Everything that was added, in order."""
        return "".join(self.parts)

    def say(self, *paragraphs: str | None) -> None:
        """Words as paragraphs; nothing for None."""
        self.parts += [paragraph(words) for words in paragraphs if words]

    def head(self, words: str) -> None:
        """A heading below the section's own."""
        self.parts.append(f"<h3>{escape_html(words)}</h3>")

    def bullets(self, items: Iterable[str], name: str = "sentences") -> None:
        """Words as a list of class ``name``."""
        self.parts.append(list_html(items, name))

    def figure(
        self, name: str, words: tuple[str, str, str], svg: str | None, narrow: str | None = None, *, fold_as: str = ""
    ) -> None:
        """A figure with its words: title, what it shows in one line, caption; nothing where ``svg`` is None.

        ``narrow`` is shown in its place on narrow screens; ``fold_as`` puts it behind a line of these words.
        """
        if svg is None:
            return
        self.figures[name] = svg
        plot = f'<div class="broad">{svg}</div><div class="narrow">{narrow}</div>' if narrow else svg
        title, conclusion, caption = map(escape_html, words)
        html = (
            f'<figure><p class="shows"><b>{title}</b> {conclusion}</p>'
            f'<div class="plot scroll" tabindex="0" role="region" aria-label="{title}">{plot}</div>'
            f'<figcaption>{caption} <a href="figures/{file_name(name)}.svg">SVG</a></figcaption></figure>'
        )
        self.parts.append(fold(fold_as, html) if fold_as else html)

    def table(self, name: str, table: Table | None, *, fold_as: str = "", identity: str = "") -> None:
        """A table, open or behind a line of words; nothing for None."""
        if table is None:
            return
        self.tables[name] = table
        html = table_html(table, identity=identity or f"{file_name(name)}-table")
        self.parts.append(fold(fold_as, html) if fold_as else html)


def fold(summary: str, html: str) -> str:
    """HTML behind a line that opens it."""
    return f"<details><summary>{escape_html(summary)}</summary>{html}</details>"


def list_html(items: Iterable[str], name: str) -> str:
    """Words as a list of class ``name``; nothing where there is none."""
    listed = "".join(f"<li>{escape_html(words)}</li>" for words in items)
    return f'<ul class="{name}">{listed}</ul>' if listed else ""


def paragraph(words: str) -> str:
    """Words as a paragraph."""
    return f"<p>{escape_html(words)}</p>"


def sentences_text(head: str, sentences: Sequence[str], width: int, most: int = MOST_SENTENCES) -> str | None:
    """Sentences under a head, the first of many; None where there is none."""
    if not sentences:
        return None
    left = len(sentences) - most
    shown = [*sentences[:most], *([f"… {left:,} more in the report"] if left > 0 else [])]
    return "\n".join([head, *wrap_lines(shown, width)])
