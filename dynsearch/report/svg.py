"""What every SVG file of a chart has in common: frame, words, lines, bars."""

from __future__ import annotations

from dynsearch.report.markup import Child, Html, tag

INK, SOFT, LINE = "#1d2024", "#565c64", "#e2dfd8"
BLUE, GREEN, ORANGE, RED, GREY = "#2166c9", "#0b8a7b", "#c27508", "#c93a1e", "#7a7f87"


def image(title: str, width: int, height: int, *children: Child) -> Html:
    """A white picture that stands alone.

    Args:
        title: What readers of the screen are told.
        width: Pixels.
        height: Pixels.
        children: What is drawn.
    """
    return tag(
        "svg",
        tag("title", title),
        tag("rect", width=width, height=height, fill="#ffffff"),
        children,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        font_family="system-ui, sans-serif",
        font_size=12,
        role="img",
    )


def panels(drawn: list[list[Html]], width: int, height: int, above: int) -> list[Html]:
    """Panels of one size in two columns, below a strip of `above` pixels."""
    return [
        tag(
            "g",
            panel,
            transform=f"translate({(i % 2) * width},{(i // 2) * height + above})",
        )
        for i, panel in enumerate(drawn)
    ]


def panels_size(count: int, width: int, height: int, above: int) -> tuple[int, int]:
    """Width and height of a picture of so many `panels`."""
    columns = min(2, max(count, 1))
    return columns * width, -(-max(count, 1) // 2) * height + above


def text(
    x: float,
    y: float,
    words: str,
    *,
    anchor: str = "middle",
    soft: bool = False,
    weight: int | None = None,
) -> Html:
    """Words at a place; soft ones are grey."""
    return tag(
        "text",
        words,
        x=f"{x:.1f}",
        y=f"{y:.1f}",
        text_anchor=anchor,
        fill=SOFT if soft else INK,
        font_weight=weight,
    )


def line(x1: float, x2: float, y1: float, y2: float, colour: str = LINE) -> Html:
    """A straight line."""
    places = {"x1": x1, "x2": x2, "y1": y1, "y2": y2}
    return tag("line", stroke=colour, **{key: f"{value:.1f}" for key, value in places.items()})


def tick(left: float, right: float, y: float, words: str, colour: str = LINE) -> list[Html]:
    """A grid line with its value on the left."""
    return [line(left, right, y, y, colour), text(left - 6, y + 4, words, anchor="end", soft=True)]


def bar(
    x: float,
    top: float,
    width: float,
    bottom: float,
    colour: str,
    words: str,
    *,
    hollow: bool = False,
) -> Html:
    """A bar from `bottom` up to `top` that tells its value; hollow: its rim alone."""
    return tag(
        "rect",
        tag("title", words),
        x=f"{x:.1f}",
        y=f"{top:.1f}",
        width=f"{width:.1f}",
        height=f"{max(bottom - top, 0.0):.1f}",
        fill="#ffffff" if hollow else colour,
        stroke=colour,
        stroke_width=1.5,
    )
