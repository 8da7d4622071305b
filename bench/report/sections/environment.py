"""The machine, the software and the command of every run."""

import shlex
from collections.abc import Sequence

from bench import format as fmt
from bench.records.record import Environment, RunRecord
from bench.report.document import Block, Cell, Code, Details, Group, Head, Heading, Section, Table, Term, Terms
from bench.report.view import Run, runs

ORDER = 65

RUNS = (
    Head("Variant"),
    Head("Run"),
    Head("Engine"),
    Head("Seed", "of prompts, order and calibration"),
    Head("Started", "UTC"),
    Head("Ended", "UTC"),
)


def _commit(environment: Environment) -> str:
    if environment.git_commit is None:
        return "not run from a git checkout"
    state = {True: ", with uncommitted changes", False: ", clean", None: ""}[environment.git_dirty]
    return f"{environment.git_commit}{state}"


def _pairs(values: dict[str, str], join: str) -> tuple[str, ...]:
    return tuple(f"{name}{join}{value}" for name, value in sorted(values.items())) or ("none",)


def _machine(environment: Environment) -> Terms:
    return Terms(
        [
            Term("Host", (environment.hostname,)),
            Term("System", (environment.os,)),
            Term("Processor", (f"{environment.cpu}, {fmt.plural(environment.cpu_cores, 'core')} usable",)),
            Term("Memory", (fmt.size(environment.memory_bytes),)),
            Term("GPUs", environment.gpus or ("none",)),
            Term("Python", (environment.python,)),
            Term("Packages", (", ".join(_pairs(environment.packages, " ")),)),
            Term("Event loop of the client", (environment.event_loop,)),
            Term("Variables", _pairs(environment.variables, "="), code=True),
            Term("quantbench commit", (_commit(environment),), code=True),
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
        Cell(fmt.moment(record.finished_at or "cut short")),
    ]


def _run_details(run: Run) -> Details:
    record = run.record
    facts = [Term(f"Stage {name}", (fmt.seconds(value),)) for name, value in record.stage_durations_s.items()]
    facts += [Term(str(name), (str(value),), code=True) for name, value in record.engine_info.reported().items()]
    facts += [Term("Session", (record.session,)), Term("Run key", (record.key,), code=True)]
    return Details(f"{run.label}: stages and what the server told", [Terms(facts)])


def section(records: Sequence[RunRecord]) -> Section:
    """Return machines, runs and commands."""
    everything = runs(records)
    machines: dict[str, list[Run]] = {}
    for run in everything:
        machines.setdefault(run.record.environment.model_dump_json(), []).append(run)
    blocks: list[Block] = []
    for on_it in machines.values():
        if len(machines) > 1:
            blocks.append(Heading(f"Machine of {', '.join(run.label for run in on_it)}"))
        blocks.append(_machine(on_it[0].record.environment))
    commands = [shlex.join(["python", "-m", "bench.run", *run.record.command]) for run in everything]
    blocks += [
        Table("Runs", RUNS, [Group([_row(run) for run in everything])]),
        Heading("To repeat these runs"),
        Code(list(dict.fromkeys(commands))),
        *map(_run_details, everything),
    ]
    return Section("environment", "Environment", blocks)
