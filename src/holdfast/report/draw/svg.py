"""The few SVG parts that the figures need: a canvas of escaped elements, linear scales, round ticks, marks.

Every element carries plain presentation attributes (a figure file looks right anywhere) and a class, by which the
page's style sheet recolours it for a dark scheme. No style attribute is used: a strict policy refuses them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from holdfast.records.errors import needs
from holdfast.report.words.inert import escape_html

SERIES = ("#5b6472", "#1f63b5", "#c25e0a", "#0b8577", "#8347ad", "#b52a4a", "#7d6b00", "#3a7d1e")
INK, SOFT, RULE, PAPER = "#1c2330", "#667085", "#dfe3ea", "#ffffff"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
# Shapes of marks other than circles: how many corners, and where the first is, in degrees.
CORNERS = {"square": (4, 45.0), "diamond": (4, 0.0), "up": (3, -90.0), "down": (3, 90.0), "hexagon": (6, 0.0)}
SHAPES = ("circle", *CORNERS)
DASHES = (None, "6 4", "2 3", "8 3 2 3")  # of lines that have no colour of their own
WIDTH, NARROW_WIDTH = 1000.0, 350.0  # pixels, of a page and of a telephone
LETTER = 6.6  # pixels that a letter takes, about

Attribute = str | float | int | None


@dataclass(frozen=True, slots=True)
class Scale:
    """A linear map of [low, high] to pixels [start, end]."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, count: int = 6) -> list[float]:
        """Round values inside the range, about ``count`` of them."""
        raw = (self.high - self.low) / max(1, count)
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
        first = math.ceil(self.low / step - 1e-9)  # an end that is a tick but for rounding keeps it
        last = math.floor(self.high / step + 1e-9)
        return [round(number * step, 10) + 0.0 for number in range(first, last + 1)]


def write_tick(value: float) -> str:
    """A tick's number with a true minus sign."""
    return f"{value:g}".replace("-", "−")


def span(values: Iterable[float], *, pad: float = 0.08) -> tuple[float, float]:
    """A range that holds all finite ``values`` with room around; (0, 1) where there are none."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return 0.0, 1.0
    low, high = min(finite), max(finite)
    room = (high - low) * pad or max(abs(high) * 0.1, 0.1)  # a scale needs two ends where all values are one
    return low - room, high + room


@dataclass(slots=True, kw_only=True)
class Canvas:
    """SVG elements in drawing order."""

    width: float
    height: float
    title: str
    parts: list[str] = field(default_factory=list)

    def add(self, tag: str, *, text: Attribute = None, hover: Attribute = None, **attributes: Attribute) -> None:
        """One element; ``cls`` is its class, underscores in names are hyphens, None is left out."""
        head = tag
        for key, value in attributes.items():
            if value is not None:
                name = "class" if key == "cls" else key.replace("_", "-")
                head += f' {name}="{escape_html(value if isinstance(value, str) else _number(value))}"'
        body = "" if hover is None else f"<title>{escape_html(hover)}</title>"
        body += "" if text is None else escape_html(text)
        self.parts.append(f"<{head}>{body}</{tag}>" if body else f"<{head}/>")

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        anchor: str = "start",
        soft: bool = False,
        size: float = 12,
        **more: str | None,
    ) -> None:
        """A line of text with its baseline at ``y``."""
        color, name = (SOFT, "soft") if soft else (INK, "ink")
        self.add("text", x=x, y=y, text=words, text_anchor=anchor, font_size=size, fill=color, cls=name, **more)

    def rule(
        self, x1: float, y1: float, x2: float, y2: float, *, strong: bool = False, dash: str | None = None
    ) -> None:
        """A thin line of the frame or grid."""
        color, name = (SOFT, "axis") if strong else (RULE, "grid")
        self.add("line", x1=x1, y1=y1, x2=x2, y2=y2, stroke=color, stroke_width=1, stroke_dasharray=dash, cls=name)

    def render(self) -> str:
        """The SVG document."""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_number(self.width)} {_number(self.height)}"'
            f' width="{_number(self.width)}" height="{_number(self.height)}" role="img"'
            f' aria-label="{escape_html(self.title)}" font-family="{escape_html(FONT)}">'
        )
        ground = f'<rect width="100%" height="100%" fill="{PAPER}" class="ground"/>'  # for dark viewers of the file
        return head + ground + "".join(self.parts) + "</svg>"


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def color_of(series: int) -> dict[str, Attribute]:
    """Fill and class of a series."""
    return {"fill": SERIES[series % len(SERIES)], "cls": f"f{series % len(SERIES)}"}


def stroke_of(series: int) -> dict[str, Attribute]:
    """Stroke and class of a series."""
    return {"stroke": SERIES[series % len(SERIES)], "cls": f"l{series % len(SERIES)}"}


def draw_mark(
    canvas: Canvas, shape: str, center: tuple[float, float], r: float, series: int, **more: Attribute
) -> None:
    """A filled mark in a series' colour."""
    x, y = center
    look: dict[str, Attribute] = {**color_of(series), **more}
    if shape == "circle":
        canvas.add("circle", cx=x, cy=y, r=r, **look)
        return
    corners, first = CORNERS[shape]
    grow = r * (1.25 if corners < 6 else 1.1)  # so that every shape looks about as large as the circle
    angles = [math.radians(first + 360 * corner / corners) for corner in range(corners)]
    spots = ((x + grow * math.cos(angle), y + grow * math.sin(angle)) for angle in angles)
    points = " ".join(f"{_number(px)},{_number(py)}" for px, py in spots)
    canvas.add("polygon", points=points, **look)


def draw_arrow(
    canvas: Canvas, start: tuple[float, float], end: tuple[float, float], series: int, *, gap: float
) -> None:
    """An arrow between two marks that leaves ``gap`` pixels free at both; nothing where they touch."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = math.hypot(dx, dy)
    if length < 2 * gap + 2:
        return
    ux, uy = dx / length, dy / length
    x2, y2 = end[0] - ux * gap, end[1] - uy * gap
    look: dict[str, Attribute] = {**stroke_of(series), "stroke_width": 2, "fill": "none", "opacity": 0.75}
    left, right = (x2 - 10 * ux + 5 * uy, y2 - 10 * uy - 5 * ux), (x2 - 10 * ux - 5 * uy, y2 - 10 * uy + 5 * ux)
    shaft = ((start[0] + ux * gap, start[1] + uy * gap), (x2, y2), left, (x2, y2), right)
    path = "".join(f"{pen}{_number(px)} {_number(py)}" for pen, (px, py) in zip("MLMLL", shaft, strict=True))
    canvas.add("path", d=path, stroke_linejoin="round", stroke_linecap="round", **look)


def draw_axes(
    canvas: Canvas, x: Scale, y: Scale, x_label: str, y_label: str, *, x_ticks: Sequence[float] | None = None
) -> None:
    """Grid, ticks and labels of a plot; ``x_ticks`` in the place of round ones."""
    for tick in x.ticks(7) if x_ticks is None else x_ticks:
        canvas.rule(x(tick), y.start, x(tick), y.end)
        canvas.text(x(tick), y.start + 18, write_tick(tick), anchor="middle", soft=True)
    for tick in y.ticks(6):
        canvas.rule(x.start, y(tick), x.end, y(tick))
        canvas.text(x.start - 8, y(tick) + 4, write_tick(tick), anchor="end", soft=True)
    canvas.rule(x.start, y.start, x.end, y.start, strong=True)
    canvas.rule(x.start, y.start, x.start, y.end, strong=True)
    canvas.text((x.start + x.end) / 2, y.start + 40, x_label, anchor="middle", size=13)
    middle = (y.start + y.end) / 2
    turned = f"rotate(-90 {_number(x.start - 46)} {_number(middle)})"
    canvas.text(x.start - 46, middle, y_label, anchor="middle", size=13, transform=turned)


def convert_figure(svg: str) -> bytes:
    """A figure as a PDF of one page of its size, by Typst, which brings its own fonts. Errors: MissingExtra."""
    with needs("plot", "a figure as PDF"):
        import typst
    # Without a date the same figure is the same file.
    page = (
        b"#set page(width: auto, height: auto, margin: 0pt)\n#set document(date: none)\n#image(bytes(sys.inputs.svg))"
    )
    return bytes(typst.compile(page, format="pdf", ignore_system_fonts=True, sys_inputs={"svg": svg}))
