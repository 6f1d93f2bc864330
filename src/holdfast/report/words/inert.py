"""Text that cannot act: every string of a report, a terminal or a LaTeX table passes through here.

Agents, emulators and judges write HTML, ANSI codes, NUL and direction overrides; a report shows them as text.
"""

from __future__ import annotations

import base64
import html
import json
import re
import textwrap
import zlib
from collections.abc import Iterable
from typing import Any

# Direction marks, overrides and isolates, zero-width characters, the byte order mark, line and
# paragraph separators, and the two characters that no XML may hold.
_INVISIBLE = "\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ufffe\uffff"
_UNSAFE = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f{_INVISIBLE}\ud800-\udfff\U000e0000-\U000e007f]")
_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "→": r"$\rightarrow$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "·": r"$\cdot$",
    "Δ": r"$\Delta$",
    "β": r"$\beta$",
    "∞": r"$\infty$",
}


def show_controls(text: str) -> str:
    """``text`` with control, direction and invisible characters and lone surrogates as visible symbols.

    Newlines and tabs stay; ``\\r\\n`` counts as a newline.
    """
    return _UNSAFE.sub(lambda found: f"⟦U+{ord(found.group()):04X}⟧", text.replace("\r\n", "\n"))


def show_line(text: str) -> str:
    """``text`` made visible and put on one line."""
    return " ".join(show_controls(text).split())


def wrap_line(text: str, width: int, first: str = "  ", rest: str = "    ") -> list[str]:
    """``text`` made visible, on lines of at most ``width`` columns that begin with ``first`` and ``rest``."""
    line = show_line(text)
    return textwrap.wrap(line, width, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)


def wrap_lines(texts: Iterable[str], width: int, first: str = "  ", rest: str = "    ") -> list[str]:
    """Every text as ``wrap_line`` has it."""
    return [line for text in texts for line in wrap_line(text, width, first, rest)]


def escape_html(value: object) -> str:
    """``value`` as HTML or SVG text or attribute value: inert, controls visible."""
    return html.escape(show_controls(str(value)), quote=True)


def escape_latex(value: object) -> str:
    """``value`` as LaTeX text on one line; signs without a LaTeX spelling here are left out as ``?`` unless Latin."""
    line = show_line(str(value))
    return "".join(_LATEX.get(char, char if ord(char) < 0x250 else "?") for char in line)


def file_name(name: str) -> str:
    """A file name of letters, digits and hyphens: what comes from data never becomes a path."""
    return "".join(char if char.isascii() and char.isalnum() else "-" for char in name)[:80]


def trim_text(text: str, limit: int) -> tuple[str, int]:
    """At most ``limit`` characters of ``text``, and how many were left out of its end."""
    return text[:limit], max(0, len(text) - limit)


def cut_line(text: str, limit: int) -> str:
    """``text`` on one line of at most ``limit`` characters, an ellipsis after what is cut."""
    line = show_line(text)
    return line if len(line) <= limit else f"{line[:limit]}…"


_ENCODER = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), allow_nan=False)


def dump_json(value: Any) -> str:
    """``value`` as JSON in ASCII."""
    return _ENCODER.encode(value)


def pack_text(text: str) -> str:
    """JSON deflated and in base64: text in which nothing that a model wrote can be found by a parser."""
    deflate = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    return base64.b64encode(deflate.compress(text.encode("ascii")) + deflate.flush()).decode("ascii")
