"""A pipeline drawn, as text and as SVG."""

from collections.abc import Sequence
from xml.sax.saxutils import escape

from data_bridge.model.outline import Box, layers, tree

_W, _H, _DX, _DY, _EDGE = 168, 48, 36, 56, 24
"""Size of a box, room between boxes beside and below each other, and around the drawing; pixels."""
_STYLE = (
    "text{font-family:ui-sans-serif,system-ui,sans-serif;font-size:13px;text-anchor:middle;fill:#1b1f24}"
    ".kind,.port{font-size:11px;fill:#57606a}"
    "rect{fill:#f6f8fa;stroke:#8c959f;rx:6}.source rect{fill:#ddf4ff;stroke:#218bff}"
    ".plate{fill:#fff;stroke:none}"
    ".writer rect{fill:#dafbe1;stroke:#2da44e}.off rect{stroke-dasharray:4 3}.off text{fill:#8c959f}"
    "path{fill:none;stroke:#8c959f;stroke-width:1.5;marker-end:url(#to)}#to path{fill:#8c959f;stroke:none;marker-end:none}"
)
_ARROW = (
    '<defs><marker id="to" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0 0L8 4L0 8z"/></marker></defs>'
)


def text(boxes: Sequence[Box]) -> str:
    """One line for each box, under what it reads; a box that reads several names the others."""
    rows = [(branch + box.name, box) for branch, box in tree(boxes)]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {_remark(box)}".rstrip() for name, box in rows)


def _remark(box: Box) -> str:
    parts = [box.kind]
    if not box.enabled:
        parts.append("(off: samples pass unchanged)")
    if box.names:
        parts.append(f"← {', '.join(f'{name}: {port}' for name, port in zip(box.names, box.inputs, strict=True))}")
    elif len(box.inputs) > 1 or any("." in port for port in box.inputs):
        parts.append(f"← {', '.join(box.inputs)}")
    return "  ".join(parts)


def svg(boxes: Sequence[Box]) -> str:
    """The same as a drawing: one row for each distance from the source."""
    rows = layers(boxes)
    widest = max(len(row) for row in rows)
    width = 2 * _EDGE + widest * _W + (widest - 1) * _DX
    height = 2 * _EDGE + len(rows) * _H + (len(rows) - 1) * _DY
    at: dict[str, tuple[float, float]] = {}
    for number, row in enumerate(_untangled(rows)):
        left = (width - len(row) * _W - (len(row) - 1) * _DX) / 2
        for place, box in enumerate(row):
            at[box.name] = (left + place * (_W + _DX), _EDGE + number * (_H + _DY))
    owner = {port: box.name for box in boxes for port in box.outputs}
    ways = [(at[owner[port]], at[box.name], port) for box in boxes for port in box.inputs]
    drawn = [_box(box, *at[box.name]) for box in boxes]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">',
            f"<style>{_STYLE}</style>",
            _ARROW,
            f'<rect width="{width}" height="{height}" style="fill:#fff;stroke:none"/>',
            *(_edge(start, end) for start, end, _ in ways),
            *(_port(start, end, output) for start, end, port in ways if (output := port.partition(".")[2])),
            *drawn,
            "</svg>",
            "",
        ]
    )


def _untangled(rows: Sequence[Sequence[Box]]) -> list[list[Box]]:
    """Each row ordered by where in the rows above it its boxes read: fewer lines cross."""
    place: dict[str, float] = {}
    found: list[list[Box]] = []
    for row in rows:
        means = {box.name: sum(place[port] for port in box.inputs) / max(1, len(box.inputs)) for box in row}
        ordered = sorted(row, key=lambda box: means[box.name])
        for number, box in enumerate(ordered):
            for order, port in enumerate(box.outputs):
                place[port] = (number + order / (len(box.outputs) + 1) + 0.5) / len(ordered)
        found.append(ordered)
    return found


def _box(box: Box, x: float, y: float) -> str:
    kind = "source" if not box.inputs else "writer" if not box.outputs else "stage"
    off = "" if box.enabled else " off"
    middle = x + _W / 2
    return (
        f'<g class="{kind}{off}"><rect x="{x:g}" y="{y:g}" width="{_W}" height="{_H}"/>'
        f'<text x="{middle:g}" y="{y + 20:g}">{escape(_short(box.name))}</text>'
        f'<text class="kind" x="{middle:g}" y="{y + 37:g}">{escape(_short(box.kind))}</text></g>'
    )


def _edge(start: tuple[float, float], end: tuple[float, float]) -> str:
    x, y, to_x, to_y = start[0] + _W / 2, start[1] + _H, end[0] + _W / 2, end[1]
    middle = (y + to_y) / 2
    return f'<path d="M{x:g} {y:g}C{x:g} {middle:g} {to_x:g} {middle:g} {to_x:g} {to_y - 1:g}"/>'


def _port(start: tuple[float, float], end: tuple[float, float], output: str) -> str:
    """The name of an output on its line, where lines from one box have parted: on a plate, so that no line crosses it."""
    name = _short(output)
    width, height = 7 * len(name) + 6, 16
    # the place on the curve of `_edge` at 0.65 of its way
    x = start[0] + _W / 2 + 0.718 * (end[0] - start[0])
    y = start[1] + _H + 0.616 * (end[1] - start[1] - _H)
    return (
        f'<rect class="plate" x="{x - width / 2:g}" y="{y - height / 2:g}" width="{width}" height="{height}"/>'
        f'<text class="port" x="{x:g}" y="{y + 4:g}">{escape(name)}</text>'
    )


def _short(name: str) -> str:
    return name if len(name) <= 22 else name[:21] + "…"
