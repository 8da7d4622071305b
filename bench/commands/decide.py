"""``quantbench decide "memory<=24GB" "ttft@30k<=2s" accuracy_margin=1pp``: which variant to use, why not others.

The variants are those of one session, the newest by default, or the runs that ``--of`` names.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from bench import format as fmt
from bench.analysis.baseline import with_baselines
from bench.analysis.constraints import EXAMPLES, FIGURES, Answer, Candidate, Decision
from bench.commands.common import add_results, ends_in_one_line
from bench.console import console, table
from bench.errors import ConfigError
from bench.history.find import FORMS, open_index, records_named
from bench.records.record import RunRecord
from bench.report.decision import SHOW, decision
from bench.speed.figures import EmulatedCell, figures_of

PLACES: dict[Answer, str] = {
    "kept": "keeps everything",
    "unsure": "may keep everything",
    "not known": "not known",
    "broken": "fails",
}
NOTHING = 1
"""Exit code where no variant is recommended."""
MOST_REASONS = 3
"""Reasons that the first line names at most; the table has them all."""


def _records(arguments: argparse.Namespace) -> list[RunRecord]:
    """Return the runs to choose from.

    Raises:
        ConfigError: there are none, or they are of several models.
    """
    names = list(arguments.of)
    if not names:
        index = open_index(arguments.results)
        try:
            newest = index.runs(limit=1)
        finally:
            index.close()
        if not newest:
            raise ConfigError(f"no run has ended in {arguments.results}; run python -m bench.run … first")
        names = [newest[0].session]
    found = {record.run_id: record for name in names for record in records_named(arguments.results, name)}
    models = sorted({record.variant.model for record in found.values()})
    if len(models) > 1:
        raise ConfigError(f"these are runs of {len(models)} models ({', '.join(models)}): name those of one with --of")
    return with_baselines(list(found.values()))


def _row(found: Decision, one: Candidate) -> tuple[str, ...]:
    show = SHOW.get(found.subject, fmt.share)
    goal = "not known" if one.goal is None else show(one.goal.median)
    if one.goal and one.goal.low != one.goal.high:
        goal += f" ({show(one.goal.low)} – {show(one.goal.high)})"
    accuracy = "not complete" if one.gaps else "not known"
    if one.accuracy:
        accuracy = fmt.points_with_interval(one.accuracy.median, one.accuracy.low, one.accuracy.high)
    place = PLACES[one.standing]
    told = "; ".join(one.why_not) or "; ".join(f"{held.need.text}: {held.reason}" for held in one.held)
    return (one.label, place, goal, accuracy, "yes" if one.run_id in found.front else "", told)


def _unjudged(found: Decision, records: Sequence[RunRecord]) -> str:
    """Return why no variant can be judged, each reason once."""
    cells = [cell for record in records for cell in record.cells]
    only_emulated = bool(cells) and all(isinstance(figures_of(cell), EmulatedCell) for cell in cells)
    reasons = ["only emulated results, so there is no speed to judge"] if only_emulated else []
    for candidate in found.fallen:
        for held in candidate.held:
            of_speed = held.need.subject in (*FIGURES, "memory")
            if held.answer == "not known" and not (only_emulated and of_speed):
                reasons.append(f"{held.need.text}: {held.reason}")
    first, *others = dict.fromkeys(reasons)
    return "; ".join((first, *others) if len(others) < MOST_REASONS else (first, f"{len(others)} more reasons below"))


def _lead(found: Decision, records: Sequence[RunRecord]) -> str:
    if not found.ranked:
        if all(candidate.standing == "not known" for candidate in found.fallen):
            return f"No variant can be judged: {_unjudged(found, records)}."
        return "No variant keeps every constraint."
    best = found.ranked[0]
    if found.margin is None:
        return f"No variant is recommended: no accuracy was measured. {best.label} has the {found.goal}."
    if best.standing == "kept":
        return f"Use {best.label}: of the variants that keep every constraint, it has the {found.goal}."
    return f"Use {best.label}: {found.goal}, though one or more constraints are undecided."


def _show(found: Decision, records: Sequence[RunRecord]) -> None:
    out = console()
    out.print(_lead(found, records), markup=False, soft_wrap=True)
    if found.margin:
        out.print(f"Accuracy margin: {found.margin.words}.", markup=False, soft_wrap=True)
    heads = ("variant", "", "goal", "accuracy", "front", "why")
    rows = [_row(found, one) for one in (*found.ranked, *found.fallen)]
    out.print(
        table(
            f"goal: {found.goal}",
            heads,
            rows,
            caption="front: no other variant is at least as good in goal and accuracy, and better in one. "
            "accuracy: mean change against BF16 over all tasks; not complete where one has no verdict",
        )
    )


@ends_in_one_line()
def main(argv: Sequence[str] | None = None) -> int:
    """Print the decision and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="quantbench decide",
        description="Say which variant to use under constraints, which come after it, and why not the others.",
        epilog=f"constraints: {EXAMPLES}. Without accuracy_margin, the margin that the runs declare applies. "
        f"Exit codes: 0; {NOTHING} no variant keeps every constraint, or no accuracy was measured; 2 a wrong name.",
    )
    parser.add_argument("constraints", nargs="*", metavar="CONSTRAINT", help="quote it: < and > are the shell's")
    parser.add_argument("--goal", help="a figure such as decode@30k, throughput@1k/16 or size (default: decode speed)")
    parser.add_argument("--of", action="append", default=[], metavar="NAME", help=f"{FORMS}; may be repeated")
    add_results(parser)
    parser.add_argument("--format", choices=("text", "json"), default="text", help="text (default) or json")
    arguments = parser.parse_args(argv)
    records = _records(arguments)
    found = decision(records, arguments.constraints, arguments.goal)
    if arguments.format == "json":
        sys.stdout.write(json.dumps(found.model_dump(mode="json"), indent=1) + "\n")
    else:
        _show(found, records)
    return 0 if found.recommended else NOTHING
