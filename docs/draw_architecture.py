"""``python docs/draw_architecture.py``: draws architecture.svg and writes the table of wings in architecture.md.

Floors are from the layers contract in pyproject.toml, sentences from the docstrings, and routes from the numbered lists
of the page: each step is drawn on the floor of its module.
"""

import ast
import re
import tomllib
from html import escape
from itertools import groupby, pairwise
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
PAGE, PICTURE = DOCS / "architecture.md", DOCS / "architecture.svg"
CELLAR = "quantize"
COLOURS = ("#3b7dd8", "#c2621b", "#2f8f5b")
ROW, TOP, LEFT, NARROWEST, STEP = 32, 96, 16, 176, 8
"""Pixels: height of a floor, top of the first, left edge, width of the top floor, added width of each floor below."""
PANEL, GAP, RADIUS = 236, 28, 9
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.wing { font-weight: 600 }
.small { font-size: 11.5px; fill: #59636e }
.floor { fill: #eef1f4; stroke: #d1d9e0 }
.cellar { fill: #e2e7ec; stroke: #d1d9e0 }
.level { stroke: #e4e8ec }
.number { font-size: 10px; font-weight: 600; fill: #fff; text-anchor: middle }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .small { fill: #9198a1 } .level { stroke: #2a3038 }
  .floor { fill: #21262d; stroke: #3d444d } .cellar { fill: #2a3038; stroke: #3d444d } .number { fill: #fff }
}
"""


def floors() -> list[list[str]]:
    """Return the modules of each floor from the top down; the last is the other package."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    [layers] = [contract["layers"] for contract in contracts if contract.get("exhaustive")]
    return [*(re.split(r" [|:] ", layer) for layer in layers), [CELLAR]]


def sentence(name: str) -> str:
    """Return the first sentence of a module's docstring, in Markdown."""
    path = ROOT / name if name == CELLAR else ROOT / "bench" / name
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    text = (ast.get_docstring(ast.parse(file.read_text())) or "").split("\n\n")[0].replace("\n", " ")
    text = re.sub(r":\w+:`([^`]+)`", r"`\1`", text).replace("``", "`")
    return re.split(r"(?<=\.) (?=[A-Z])", text)[0]


def routes() -> dict[str, list[str]]:
    """Return {heading of a numbered list: the dotted name at the beginning of each step}."""
    steps: dict[str, list[str]] = {}
    for section in re.split(r"^### ", PAGE.read_text(), flags=re.MULTILINE)[1:]:
        steps[section.partition("\n")[0]] = re.findall(r"^\d+\. `([\w.]+)`", section, re.MULTILINE)
    return steps


def floor_of(step: str) -> int:
    """Return the number of a step's floor, from the top."""
    package, _, rest = step.partition(".")
    wing = rest.partition(".")[0] if package == "bench" else package
    return next(number for number, wings in enumerate(floors()) if wing in wings)


def table() -> str:
    """Return the table of wings; wings on one floor share its number."""
    rows = floors()
    numbered = [(len(rows) - 1 - number, wing) for number, wings in enumerate(rows) for wing in wings]
    lines = [f"| {number} | `{wing}` | {sentence(wing)} |" for number, wing in numbered]
    return "\n".join(["| floor | wing | what it holds |", "|---|---|---|", *lines])


def _y(floor: int) -> float:
    return TOP + ROW * (floor + 0.5)


def _floor(number: int, wings: list[str], width: int) -> list[str]:
    right = LEFT + NARROWEST + STEP * number
    kind = "cellar" if wings == [CELLAR] else "floor"
    label = '<tspan class="small"> · </tspan>'.join(f'<tspan class="wing">{escape(wing)}</tspan>' for wing in wings)
    y = _y(number)
    return [
        f'<line class="level" x1="{right}" x2="{width - LEFT}" y1="{y}" y2="{y}"/>',
        f'<rect class="{kind}" x="{LEFT}" y="{y - ROW / 2 + 2}" width="{right - LEFT}" height="{ROW - 4}" rx="3"/>',
        f'<text x="{LEFT + 10}" y="{y + 4.5}">{label}</text>',
    ]


def _stays(steps: list[str]) -> list[tuple[int, str, str]]:
    """Return (floor, numbers, names) of the steps, with consecutive steps on one floor combined."""
    stays = []
    for floor, group in groupby(enumerate(steps, start=1), key=lambda step: floor_of(step[1])):
        numbers, names = zip(*group, strict=True)
        label = f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]}–{numbers[-1]}"
        stays.append((floor, label, ", ".join(names)))
    return stays


def _route(heading: str, steps: list[str], left: float, colour: str) -> list[str]:
    begin, _, end = heading.partition(", ")
    stays = _stays(steps)
    reach = (PANEL - 4 * RADIUS) / (len(stays) - 1)
    places = [(left + 2 * RADIUS + reach * number, _y(floor)) for number, (floor, _, _) in enumerate(stays)]
    lines = [
        f'<text class="wing" x="{left}" y="40" style="fill: {colour}">{escape(begin)}</text>',
        f'<text class="small" x="{left}" y="58">{escape(end)}</text>',
    ]
    for (x1, y1), (x2, y2) in pairwise(places):
        bend = (x1 + x2) / 2
        curve = f"M {x1:.1f} {y1:.1f} C {bend:.1f} {y1:.1f}, {bend:.1f} {y2:.1f}, {x2:.1f} {y2:.1f}"
        lines.append(f'<path d="{curve}" fill="none" stroke="{colour}" stroke-width="2"/>')
    for (x, y), (_, label, names) in zip(places, stays, strict=True):
        wide = RADIUS + (len(label) > 2) * RADIUS
        size = f'x="{x - wide:.1f}" y="{y - RADIUS}" width="{2 * wide}" height="{2 * RADIUS}" rx="{RADIUS}"'
        lines.append(f'<rect {size} fill="{colour}"><title>{names}</title></rect>')
        lines.append(f'<text class="number" x="{x:.1f}" y="{y + 3.5}">{label}</text>')
    return lines


def picture() -> str:
    """Return the drawing: floors as stairs, and to their right each route as a line between floors."""
    rows = floors()
    begin = LEFT + NARROWEST + STEP * len(rows) + GAP
    width, height = begin + len(routes()) * (PANEL + GAP) - GAP + LEFT, TOP + ROW * len(rows) + 16
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {width} {height}" width="{width}">',
        f"<title>The wings of quantbench, and the paths of {len(routes())} values through them</title>",
        f"<style>{STYLE}</style>",
        f'<text class="small" x="{LEFT}" y="40">A wing imports what is below it,</text>',
        f'<text class="small" x="{LEFT}" y="58">and nothing above or next to it.</text>',
    ]
    for number, wings in enumerate(rows):
        lines += _floor(number, wings, width)
    for place, ((heading, steps), colour) in enumerate(zip(routes().items(), COLOURS, strict=True)):
        lines += _route(heading, steps, begin + place * (PANEL + GAP), colour)
    return "\n".join([*lines, "</svg>", ""])


def page() -> str:
    """Return the page with its table of wings."""
    before, rest = PAGE.read_text().split("<!-- wings -->\n")
    _, after = rest.split("<!-- end -->")
    return f"{before}<!-- wings -->\n{table()}\n<!-- end -->{after}"


if __name__ == "__main__":
    PAGE.write_text(page())
    PICTURE.write_text(picture())
