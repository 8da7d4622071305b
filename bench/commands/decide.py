"""``quantbench decide "memory<=24GB" "ttft@30k<=2s" accuracy_margin=1pp``: recommend a variant, with reasons.

The variants are the runs of the newest session, or those given with ``--of``.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from bench import format as fmt
from bench.analysis.baseline import with_baselines
from bench.analysis.constraints import EXAMPLES, Answer, Candidate, Decision
from bench.commands.common import add_results, ends_in_one_line
from bench.console import console, table
from bench.errors import ConfigError
from bench.history.find import FORMS, open_index, records_named
from bench.records.record import RunRecord
from bench.report.decision import SHOW, decision

PLACES: dict[Answer, str] = {
    "kept": "meets all constraints",
    "unsure": "may meet all",
    "not known": "not known",
    "broken": "fails",
}
NOTHING = 1
"""Exit code if no variant is recommended."""
MOST_REASONS = 3
"""Reasons that the first line names at most; the table has them all."""


def _records(arguments: argparse.Namespace) -> list[RunRecord]:
    """Return the runs to choose from.

    Raises:
        ConfigError: there are none, or they belong to several models.
    """
    names = list(arguments.of)
    if not names:
        index = open_index(arguments.results)
        try:
            newest = index.runs(limit=1)
        finally:
            index.close()
        if not newest:
            raise ConfigError(f"{arguments.results} has no finished run; run python -m bench.run … first")
        names = [newest[0].session]
    records = {record.run_id: record for name in names for record in records_named(arguments.results, name)}
    models = sorted({record.variant.model for record in records.values()})
    if len(models) > 1:
        raise ConfigError(
            f"these are runs of {len(models)} models ({', '.join(models)}): select one model's runs with --of"
        )
    return with_baselines(list(records.values()))


def _row(choice: Decision, candidate: Candidate) -> tuple[str, ...]:
    show = SHOW.get(choice.subject, fmt.share)
    goal = "not known" if candidate.goal is None else show(candidate.goal.median)
    if candidate.goal and candidate.goal.low != candidate.goal.high:
        goal += f" ({show(candidate.goal.low)} – {show(candidate.goal.high)})"
    accuracy = "not complete" if candidate.gaps else "not known"
    if change := candidate.accuracy:
        accuracy = fmt.points_with_interval(change.median, change.low, change.high)
    place = PLACES[candidate.standing]
    reasons = candidate.why_not or [f"{held.need.text}: {held.reason}" for held in candidate.held]
    front = "yes" if candidate.run_id in choice.front else ""
    return (candidate.label, place, goal, accuracy, front, "; ".join(reasons))


def _unjudged(choice: Decision) -> str:
    """Return why no variant can be judged, each reason once."""
    held = [held for candidate in choice.fallen for held in candidate.held if held.answer == "not known"]
    first, *others = dict.fromkeys(f"{each.need.text}: {each.reason}" for each in held)
    return "; ".join((first, *others) if len(others) < MOST_REASONS else (first, f"{len(others)} more reasons below"))


def _lead(choice: Decision) -> str:
    if not choice.ranked:
        if all(candidate.standing == "not known" for candidate in choice.fallen):
            return f"No variant can be judged: {_unjudged(choice)}."
        return "No variant meets all constraints."
    best = choice.ranked[0]
    if choice.margin is None:
        return f"No variant is recommended: no accuracy was measured. {best.label} has the {choice.goal}."
    if best.standing == "kept":
        return f"Use {best.label}: of the variants that meet all constraints, it has the {choice.goal}."
    return f"Use {best.label}: {choice.goal}, though one or more constraints are undecided."


def _show(choice: Decision) -> None:
    out = console()
    out.print(_lead(choice), markup=False, soft_wrap=True)
    if choice.margin:
        out.print(f"Accuracy margin: {choice.margin.words}.", markup=False, soft_wrap=True)
    heads = ("variant", "", "goal", "accuracy", "front", "why")
    rows = [_row(choice, candidate) for candidate in (*choice.ranked, *choice.fallen)]
    out.print(
        table(
            f"goal: {choice.goal}",
            heads,
            rows,
            caption="front: no other variant is at least as good in goal and accuracy, and better in one. "
            "accuracy: mean change from BF16 over all tasks; not complete if a task has no verdict",
        )
    )


@ends_in_one_line()
def main(argv: Sequence[str] | None = None) -> int:
    """Print the decision and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="quantbench decide",
        description="Rank the variants under constraints and give the reason for each.",
        epilog=f"constraints: {EXAMPLES}. Without accuracy_margin, the margin declared by the runs applies. "
        f"Exit codes: 0 success; {NOTHING} no variant meets all constraints, or no accuracy was measured; "
        "2 unknown name.",
    )
    parser.add_argument("constraints", nargs="*", metavar="CONSTRAINT", help="quote it: the shell interprets < and >")
    parser.add_argument(
        "--goal", help="what to optimize, such as decode@30k, throughput@1k/16 or size (default: decode speed)"
    )
    parser.add_argument("--of", action="append", default=[], metavar="NAME", help=f"{FORMS}; may be repeated")
    add_results(parser)
    parser.add_argument("--format", choices=("text", "json"), default="text", help="text (default) or json")
    arguments = parser.parse_args(argv)
    choice = decision(_records(arguments), arguments.constraints, arguments.goal)
    if arguments.format == "json":
        sys.stdout.write(json.dumps(choice.model_dump(mode="json"), indent=1) + "\n")
    else:
        _show(choice)
    return 0 if choice.recommended else NOTHING
