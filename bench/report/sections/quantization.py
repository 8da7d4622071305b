"""How each checkpoint was made, from what, and how far its predictions are from its source's."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from bench import format as fmt
from bench.records.record import RunRecord
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
    Text,
    number,
)
from bench.report.view import Run, runs
from quantize.checkpoint import CalibrationFact, Canaries, Manifest

ORDER = 52

LEAD = (
    "How the checkpoints are stored, what they were calibrated on, and how near their predictions are to the source's."
)
CANARIES = (
    "Repetition, entropy and same tokens are those of canary prompts: beginnings of held-out texts, continued greedily "
    "by the checkpoint and by its source. One different token can change all that follow, so few same tokens alone are "
    "no defect. A checkpoint whose repetition or entropy is far from its source's is refused."
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


def _format(manifest: Manifest) -> str:
    """Return how the quantized layers are stored; records of schema 1 do not tell."""
    return manifest.format or ("none" if manifest.bits_per_quantized_weight is None else "not recorded")


def _proof(manifest: Manifest) -> tuple[float, str] | None:
    """Return (seconds, peak memory in words) of the proof; None for records of schema 1, which do not tell."""
    memory = manifest.proof_peak_rss_bytes
    return (manifest.proof_s, fmt.size(memory)) if memory else None


def _made(made: Sequence[tuple[Run, Manifest]]) -> Table:
    """Return what was made, from what, and at which cost; experts only where there are any."""
    experts = any(manifest.experts_reached is not None for _, manifest in made)
    reached = [Head("Experts reached", "share of experts that the router sent calibration tokens to", numeric=True)]
    heads = [
        Head("Variant"),
        Head("Quantized layers"),
        Head("Calibrated on"),
        *(reached if experts else ()),
        Head("Made in", "time for making the weights; below it the highest resident memory", numeric=True),
        Head("Proven in", "time for reading back and comparing with the source; below it the memory", numeric=True),
    ]
    rows = []
    for run, manifest in made:
        calibration = manifest.calibration
        tokens = (fmt.plural(calibration.n_tokens, "token"),) if calibration else ()
        proof = _proof(manifest)
        share = [number(manifest.experts_reached, fmt.percent, "of 1")]
        rows.append(
            [
                run.heading,
                Cell(_format(manifest)),
                Cell(calibration.id, tokens, calibration.source) if calibration else Cell(),
                *(share if experts else ()),
                number(manifest.build_s, fmt.seconds, "s", notes=(fmt.size(manifest.peak_rss_bytes),)),
                number(proof[0], fmt.seconds, "s", notes=(proof[1],)) if proof else Cell(numeric=True),
            ]
        )
    return Table("Checkpoints", heads, [Group(rows)])


def _canary_cells(found: Canaries | None) -> list[Cell]:
    if found is None:
        return [Cell(numeric=True)] * 3
    source, own = found.source, found.checkpoint
    compared = f"of {fmt.count(found.prompts * found.new_tokens)}"
    return [
        number(own.repetition, fmt.percent, "of 1", notes=(f"source {fmt.percent(source.repetition)}",)),
        number(own.entropy_nats, fmt.two_decimals, "nats", notes=(f"source {fmt.two_decimals(source.entropy_nats)}",)),
        number(found.same_tokens, fmt.percent, "of 1", notes=(compared,)),
    ]


def _fidelity(made: Sequence[tuple[Run, Manifest]]) -> list[Block]:
    """Return the comparison with the source; canary prompts only where some were run."""
    compared = [(run, manifest, manifest.fidelity) for run, manifest in made if manifest.fidelity]
    if not compared:
        return []
    canaries = any(manifest.canaries for _, manifest, _ in compared)
    spoken = [
        Head("Repetition", "share of token pairs that occurred before in the same continuation", numeric=True),
        Head("Entropy", "of the next-token distribution, mean over the continuations, nats", numeric=True),
        Head("Same tokens", "share of new tokens that equal the source's at the same place", numeric=True),
    ]
    heads = [
        Head("Variant"),
        Head("Held-out text", "and the number of positions compared"),
        Head("KL to source", "mean KL divergence of next-token distributions, nats per token", numeric=True),
        Head("Top-1 agreement", "share of positions with the same most likely next token", numeric=True),
        Head("Perplexity", "on the held-out text", numeric=True),
        *(spoken if canaries else ()),
    ]
    rows = [
        [
            run.heading,
            Cell(found.text_id, (fmt.plural(found.n_tokens, "position"),), f"SHA-256 {found.text_sha256}"),
            number(found.kl_nats, fmt.significant, "nats per token"),
            number(found.top1_agreement, fmt.percent, "of 1"),
            number(found.perplexity, fmt.two_decimals, notes=(f"source {fmt.two_decimals(found.source_perplexity)}",)),
            *(_canary_cells(manifest.canaries) if canaries else ()),
        ]
        for run, manifest, found in compared
    ]
    blocks: list[Block] = [Table("Fidelity to the source on held-out text", heads, [Group(rows)])]
    return [*blocks, Text(CANARIES, "small")] if canaries else blocks


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


def _calibration(calibration: CalibrationFact | None, *, released: bool) -> list[Term]:
    if calibration is None:
        return [Term("Calibration", ("not known: a release, taken as it is" if released else "none",))]
    amount = (
        f"{calibration.id}: {fmt.plural(calibration.n_samples, 'sample')} of at most "
        f"{fmt.plural(calibration.max_seq_len, 'token')}, {fmt.plural(calibration.n_tokens, 'token')} in all"
    )
    items = [
        Term("Calibration", (amount, calibration.source)),
        Term("Calibration hash", (calibration.sha256,), code=True),
    ]
    if calibration.enable_thinking is not None:
        items.append(Term("Thinking in chats", ("enabled" if calibration.enable_thinking else "disabled",)))
    if calibration.chat_template_sha256:
        items.append(Term("Chat template hash", (calibration.chat_template_sha256,), code=True))
    return items


def _facts(manifest: Manifest) -> Terms:
    libraries = ", ".join(f"{name} {version}" for name, version in sorted(manifest.libraries.items()))
    items = [
        Term("Weights", (manifest.provenance,)),
        Term("Quantized layers", (_format(manifest),)),
        *_calibration(manifest.calibration, released="release" in manifest.key.inputs),
    ]
    if manifest.experts_reached is not None:
        reached = f"{fmt.percent(manifest.experts_reached)} were sent calibration tokens by the router itself"
        items.append(Term("Experts reached", (reached,)))
    proof = _proof(manifest)
    return Terms(
        [
            *items,
            Term("Libraries", (libraries or "none",)),
            Term("Seed", (str(manifest.seed),)),
            Term("Built", (f"{fmt.moment(manifest.created_at)} UTC, in {fmt.seconds(manifest.build_s)}",)),
            Term("Peak memory of the build", (fmt.size(manifest.peak_rss_bytes),)),
            Term("Proof", (f"{fmt.seconds(proof[0])}, peak memory {proof[1]}" if proof else "not recorded",)),
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
    blocks: list[Block] = [Text(LEAD, "lead"), _made(made), *_fidelity(made)] if made else []
    settings = _settings(made)
    return Section("quantization", "Quantization", [*blocks, *([settings] if settings else ()), *details])
