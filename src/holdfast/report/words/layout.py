"""What every section of the page is made of: paragraphs, folded parts, figures with captions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from holdfast.report.words.inert import escape_html, file_name, wrap_lines
from holdfast.report.words.tables import Table

COUNTED_ONLY = (
    "These numbers have no interval: they count the episodes at hand, and that two of them differ is no finding."
)
MOST_SENTENCES = 8  # of one block in a terminal


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the page, and the figures (SVG text) and tables that are also written as files."""

    identity: str
    title: str
    html: str
    figures: Mapping[str, str]
    tables: Mapping[str, Table]


def wrap_figure(svg: str, name: str, caption: str, *, narrow: str = "") -> str:
    """A figure with its caption and a link to its file; ``narrow`` is shown instead on a narrow screen."""
    if narrow:
        svg = f'<div class="broad">{svg}</div><div class="narrow">{narrow}</div>'
    return (
        f'<figure><div class="plot scroll" tabindex="0" role="region" aria-label="{escape_html(caption[:80])}">{svg}'
        f"</div><figcaption>{escape_html(caption)} "
        f'<a href="figures/{file_name(name)}.svg">SVG</a></figcaption></figure>'
    )


def fold(summary: str, html: str) -> str:
    """HTML behind a line that opens it."""
    return f"<details><summary>{escape_html(summary)}</summary>{html}</details>"


def make_section(
    identity: str,
    title: str,
    parts: Sequence[str],
    figures: Mapping[str, str] | None = None,
    tables: Mapping[str, Table] | None = None,
) -> Section:
    """A section of parts of HTML."""
    return Section(identity=identity, title=title, html="".join(parts), figures=figures or {}, tables=tables or {})


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
