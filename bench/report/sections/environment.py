"""The machine, the software and the command of every run."""

import shlex
from collections.abc import Sequence

from bench import format as fmt
from bench.messages.message import Words, msg
from bench.records.record import Environment, RunRecord
from bench.report.document import Block, Cell, Code, Details, Group, Head, Heading, Section, Table, Term, Terms
from bench.report.view import Run, runs

ORDER = 65

RUNS = (
    Head(msg("head.variant")),
    Head(msg("environment.run")),
    Head(msg("head.engine")),
    Head(msg("head.seed"), msg("environment.seed.help")),
    Head(msg("environment.started"), "UTC"),
    Head(msg("environment.ended"), "UTC"),
)


def _commit(environment: Environment) -> Words:
    commit = environment.git_commit
    if commit is None:
        return msg("environment.no_checkout")
    if environment.git_dirty is None:
        return commit
    if environment.git_dirty:
        return msg("environment.dirty", commit=commit)
    return msg("environment.clean", commit=commit)


def _pairs(values: dict[str, str], join: str) -> list[str]:
    return [f"{name}{join}{value}" for name, value in sorted(values.items())]


def _machine(environment: Environment) -> Terms:
    none = msg("word.none")
    packages, variables = _pairs(environment.packages, " "), _pairs(environment.variables, "=")
    return Terms(
        [
            Term(msg("environment.host"), (environment.hostname,)),
            Term(msg("environment.system"), (environment.os,)),
            Term(msg("environment.processor"), (msg("environment.cpu", cpu=environment.cpu, n=environment.cpu_cores),)),
            Term(msg("environment.memory"), (fmt.size(environment.memory_bytes),)),
            Term(msg("environment.gpus"), environment.gpus or (none,)),
            Term("Python", (environment.python,)),
            Term(msg("environment.packages"), (", ".join(packages) or none,)),
            Term(msg("environment.event_loop"), (environment.event_loop,)),
            Term(msg("environment.variables"), tuple(variables) or (none,), code=True),
            Term(msg("environment.commit"), (_commit(environment),), code=True),
        ]
    )


def _row(run: Run) -> list[Cell]:
    record = run.record
    return [
        run.heading,
        Cell(record.run_id),
        Cell(record.engine),
        Cell(str(record.spec.seed)),
        Cell(fmt.moment(record.started_at)),
        Cell(fmt.moment(record.finished_at) if record.finished_at else msg("word.interrupted")),
    ]


def _run_details(run: Run) -> Details:
    record = run.record
    facts = [
        Term(msg("environment.stage", stage=name), (fmt.seconds(value),))
        for name, value in record.stage_durations_s.items()
    ]
    facts += [Term(str(name), (str(value),), code=True) for name, value in record.engine_info.reported().items()]
    facts.append(Term(msg("head.session"), (record.session,)))
    facts.append(Term(msg("environment.key"), (record.key,), code=True))
    return Details(msg("environment.details", label=run.label), [Terms(facts)])


def section(records: Sequence[RunRecord]) -> Section:
    """Return machines, runs and commands."""
    everything = runs(records)
    machines: dict[str, list[Run]] = {}
    for run in everything:
        machines.setdefault(run.record.environment.model_dump_json(), []).append(run)
    blocks: list[Block] = []
    for on_it in machines.values():
        if len(machines) > 1:
            blocks.append(Heading(msg("environment.machine_of", runs=", ".join(run.label for run in on_it))))
        blocks.append(_machine(on_it[0].record.environment))
    commands = [shlex.join(["python", "-m", "bench.run", *run.record.command]) for run in everything]
    blocks += [
        Table(msg("environment.runs"), RUNS, [Group([_row(run) for run in everything])]),
        Heading(msg("environment.repeat")),
        Code(list(dict.fromkeys(commands))),
        *map(_run_details, everything),
    ]
    return Section("environment", msg("environment.title"), blocks)
