"""How each checkpoint was made, from what, and how far its predictions are from its source's."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from bench.record import RunRecord
from bench.report import format as fmt
from bench.report.document import (
    Block,
    Bullets,
    Cell,
    Details,
    Group,
    Head,
    Heading,
    Section,
    Table,
    Term,
    Terms,
    number,
)
from bench.report.view import Run, runs
from quantize.checkpoint import Manifest

ORDER = 50

FIDELITY = (
    Head("Variant"),
    Head("KL to source", "mean KL divergence of next-token distributions, nats per token", numeric=True),
    Head("Top-1 agreement", "share of positions with the same most likely next token", numeric=True),
    Head("Perplexity", "of this checkpoint on the held-out text", numeric=True),
    Head("Source's perplexity", numeric=True),
    Head("Positions", "positions compared", numeric=True),
    Head("Held-out text"),
)


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield nested settings as (dotted name, text), without those that are null."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(inner, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list | tuple):
        if value:
            yield path, ", ".join(map(str, value))
    elif value is not None:
        yield path, str(value)


def _fidelity(made: Sequence[tuple[Run, Manifest]]) -> Table | None:
    rows = [
        [
            run.heading,
            number(found.kl, fmt.significant, "nats per token"),
            number(found.top1_agreement, fmt.percent, "of 1"),
            number(found.perplexity, fmt.two_decimals),
            number(found.source_perplexity, fmt.two_decimals),
            Cell(fmt.count(found.n_tokens), numeric=True),
            Cell(found.text_id, exact=f"SHA-256 {found.text_sha256}"),
        ]
        for run, manifest in made
        if (found := manifest.fidelity)
    ]
    return Table("Fidelity to the source on held-out text", FIDELITY, [Group(rows)]) if rows else None


def _settings(made: Sequence[tuple[Run, Manifest]]) -> Details | None:
    """Return the settings as the checkpoints' own config files state them, one column per variant."""
    columns = {run.label: dict(_flat(m.quantization_config)) for run, m in made if m.quantization_config}
    if not columns:
        return None
    table = pd.DataFrame(columns, dtype=object).fillna(fmt.MISSING).sort_index()
    rows = [
        [Cell(str(name)), *map(Cell, row)] for name, row in zip(table.index, table.to_numpy().tolist(), strict=True)
    ]
    heads = [Head("Setting"), *map(Head, columns)]
    caption = "quantization_config of each checkpoint; settings that are null everywhere are left out"
    return Details("Method settings", [Table(caption, heads, [Group(rows)])])


def _facts(manifest: Manifest) -> Terms:
    calibration = manifest.calibration
    items = [Term("Weights", (manifest.provenance,))]
    if calibration:
        text = (
            f"{calibration.id}: {fmt.plural(calibration.n_samples, 'sample')} of at most "
            f"{fmt.plural(calibration.max_seq_len, 'token')}, {fmt.plural(calibration.n_tokens, 'token')} in all"
        )
        items += [Term("Calibration", (text,)), Term("Calibration hash", (calibration.sha256,), code=True)]
    else:
        items.append(Term("Calibration", ("none",)))
    libraries = ", ".join(f"{name} {version}" for name, version in sorted(manifest.libraries.items()))
    return Terms(
        [
            *items,
            Term("Libraries", (libraries or "none",)),
            Term("Seed", (str(manifest.seed),)),
            Term("Built", (f"{fmt.moment(manifest.created_at)} UTC, in {fmt.seconds(manifest.seconds)}",)),
            Term("Peak memory of the build", (fmt.size(manifest.peak_rss_bytes),)),
            Term("Files", (f"{len(manifest.files)}, of which weights {fmt.size(manifest.checkpoint_bytes)}",)),
            Term("Checkpoint key", (manifest.key.digest,), code=True),
        ]
    )


def _details(run: Run) -> Details:
    manifest = run.record.checkpoint
    blocks: list[Block] = [_facts(manifest)] if manifest else []
    notes = manifest.notes if manifest else ()
    for title, lines in (("Notes", notes), ("Decisions of the run", run.record.log)):
        blocks += [Heading(title), Bullets(lines)] if lines else []
    return Details(f"{run.label}: origin, calibration and decisions", blocks)


def section(records: Sequence[RunRecord]) -> Section | None:
    """Return the quantization section; None if no run has a checkpoint or decided anything."""
    everything = runs(records)
    made = [(run, run.record.checkpoint) for run in everything if run.record.checkpoint]
    details = [_details(run) for run in everything if run.record.checkpoint or run.record.log]
    if not details:
        return None
    tables = [block for block in (_fidelity(made), _settings(made)) if block]
    return Section("quantization", "Quantization", [*tables, *details])
