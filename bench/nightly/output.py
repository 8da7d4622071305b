"""Output of the gate: text, Markdown and JUnit XML. Pure functions."""

from collections import Counter
from collections.abc import Sequence
from xml.etree import ElementTree as ET

from quantize.key import Frozen

EXIT = {0: "fine", 1: "a regression", 2: "not enough data", 3: "an invalid run"}
KIND_CODE = {
    "fine": 0, "faster": 0, "regression": 1, "drift": 1, "rerun": 1, "not_enough_data": 2, "invalid": 3,
}  # fmt: skip
"""Exit code of each kind. An alarm without a second measurement counts as a regression."""
ORDER = (1, 3, 2, 0)
"""Exit codes by priority: the command's is the first one that any line has."""


class Line(Frozen):
    """The judgement of one series, task or run."""

    name: str
    kind: str
    reason: str
    ratio: float | None = None
    """Ratio of the variant's speed to the control's."""


def exit_code(lines: Sequence[Line]) -> int:
    """Return the exit code: a regression before an invalid run before too little data. No lines are too little data."""
    codes = {KIND_CODE[line.kind] for line in lines}
    return next((code for code in ORDER if code in codes), 2)


def verdict(lines: Sequence[Line]) -> str:
    """Return the overall result in one sentence."""
    counts = Counter(line.kind for line in lines)
    summary = ", ".join(f"{number} {kind.replace('_', ' ')}" for kind, number in sorted(counts.items()))
    return f"{EXIT[exit_code(lines)]}: {summary or 'nothing to judge'}"


def _worst_first(lines: Sequence[Line]) -> list[Line]:
    return sorted(lines, key=lambda line: ORDER.index(KIND_CODE[line.kind]))


def _ratio(line: Line) -> str:
    return "" if line.ratio is None else f"{line.ratio:.3f}"


def lines_of(lines: Sequence[Line]) -> str:
    """Return the text for the terminal, worst first."""
    width = max((len(line.name) for line in lines), default=0)
    rows = [f"{line.kind:<16}{line.name:<{width}}  {line.reason}\n" for line in _worst_first(lines)]
    return "".join([*rows, f"{verdict(lines)}\n"])


def _escaped(text: str) -> str:
    for plain, safe in (("\\", "\\\\"), ("|", "\\|"), ("<", "&lt;"), ("\n", " ")):
        text = text.replace(plain, safe)
    return text


def markdown(title: str, lines: Sequence[Line]) -> str:
    """Return a section in Markdown."""
    rows = [
        f"| {line.kind.replace('_', ' ')} | {_escaped(line.name)} | {_ratio(line)} | {_escaped(line.reason)} |"
        for line in _worst_first(lines)
    ]
    head = [f"## quantbench: {verdict(lines)}", "", f"Session {_escaped(title)}", ""]
    return "\n".join([*head, "| | series or task | speed / control | |", "|---|---|---|---|", *rows, "", ""])


def junit(title: str, lines: Sequence[Line]) -> bytes:
    """Return JUnit XML: a regression is a failure, an invalid run an error, too little data is skipped."""
    codes = Counter(KIND_CODE[line.kind] for line in lines)
    suite = ET.Element(
        "testsuite",
        name=f"quantbench {title}",
        tests=str(len(lines)),
        failures=str(codes[1]),
        errors=str(codes[3]),
        skipped=str(codes[2]),
    )
    for line in lines:
        case = ET.SubElement(suite, "testcase", classname="quantbench", name=line.name)
        tag = {1: "failure", 2: "skipped", 3: "error"}.get(KIND_CODE[line.kind])
        if tag is None:
            ET.SubElement(case, "system-out").text = line.reason
        else:
            ET.SubElement(case, tag, {"message": line.reason, "type": line.kind})
    ET.indent(suite)
    xml: bytes = ET.tostring(suite, encoding="utf-8", xml_declaration=True)
    return xml
