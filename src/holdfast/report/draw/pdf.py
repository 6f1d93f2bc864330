"""Figures as PDF, converted from their SVG by Typst, which brings its own fonts: needs the ``plot`` extra."""

from __future__ import annotations

from holdfast.records.errors import needs

# Without a date the same figure is the same file.
DOCUMENT = (
    b"#set page(width: auto, height: auto, margin: 0pt)\n#set document(date: none)\n#image(bytes(sys.inputs.svg))"
)


def convert_figure(svg: str) -> bytes:
    """An SVG figure as a PDF of one page of its size. Errors: MissingExtra."""
    with needs("plot", "a figure as PDF"):
        import typst
    return bytes(typst.compile(DOCUMENT, format="pdf", ignore_system_fonts=True, sys_inputs={"svg": svg}))
