"""How each checkpoint was made, from what, and how far its predictions are from its source's."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from bench import format as fmt
from bench.messages.message import Words, msg
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
from bench.report.recorded import recorded
from bench.report.units import NATS_PER_TOKEN, OF_ONE
from bench.report.view import Run, runs
from quantize.checkpoint import CalibrationFact, Canaries, Fidelity, Manifest

ORDER = 52


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


def _format(manifest: Manifest) -> Words:
    """Return how the quantized layers are stored; records of schema 1 do not have it."""
    if manifest.format:
        return recorded(manifest.format)
    return msg("word.none") if manifest.bits_per_quantized_weight is None else msg("quantization.not_recorded")


def _proof(manifest: Manifest) -> tuple[float, str] | None:
    """Return (seconds, peak memory in words) of the proof; None for records of schema 1, which do not have them."""
    memory = manifest.proof_peak_rss_bytes
    return (manifest.proof_s, fmt.size(memory)) if memory else None


def _checkpoints(manifests: Sequence[tuple[Run, Manifest]]) -> Table:
    """Return the table of checkpoints: format, calibration and build cost; experts only if there are any."""
    experts = any(manifest.experts_reached is not None for _, manifest in manifests)
    expert_heads = [Head(msg("quantization.experts"), msg("quantization.experts.help"), numeric=True)]
    heads = [
        Head(msg("head.variant")),
        Head(msg("quantization.layers")),
        Head(msg("quantization.calibrated_on")),
        *(expert_heads if experts else ()),
        Head(msg("quantization.made_in"), msg("quantization.made_in.help"), numeric=True),
        Head(msg("quantization.proven_in"), msg("quantization.proven_in.help"), numeric=True),
    ]
    rows = []
    for run, manifest in manifests:
        calibration = manifest.calibration
        tokens = (msg("word.tokens", n=calibration.n_tokens),) if calibration else ()
        proof = _proof(manifest)
        share = [number(manifest.experts_reached, fmt.percent, OF_ONE)]
        rows.append(
            [
                run.heading,
                Cell(_format(manifest)),
                Cell(recorded(calibration.id), tokens, recorded(calibration.source)) if calibration else Cell(),
                *(share if experts else ()),
                number(manifest.build_s, fmt.seconds, "s", notes=(fmt.size(manifest.peak_rss_bytes),)),
                number(proof[0], fmt.seconds, "s", notes=(proof[1],)) if proof else Cell(numeric=True),
            ]
        )
    return Table(msg("quantization.checkpoints"), heads, [Group(rows)])


def _of_source(value: str) -> tuple[Words]:
    """Return the note that gives the source's own figure."""
    return (msg("quantization.of_source", value=value),)


def _canary_cells(canaries: Canaries | None) -> list[Cell]:
    if canaries is None:
        return [Cell(numeric=True)] * 3
    source, own = canaries.source, canaries.checkpoint
    compared = msg("cell.of", total=fmt.count(canaries.prompts * canaries.new_tokens))
    return [
        number(own.repetition, fmt.percent, OF_ONE, notes=_of_source(fmt.percent(source.repetition))),
        number(own.entropy_nats, fmt.two_decimals, "nats", notes=_of_source(fmt.two_decimals(source.entropy_nats))),
        number(canaries.same_tokens, fmt.percent, OF_ONE, notes=(compared,)),
    ]


def _of_rounding(fidelity: Fidelity) -> tuple[Words, ...]:
    if fidelity.rounding_kl_nats is None:
        return ()
    return (msg("quantization.kl.rounding", kl=fmt.significant(fidelity.rounding_kl_nats)),)


def _fidelity(manifests: Sequence[tuple[Run, Manifest]]) -> list[Block]:
    """Return the comparison with the source; canary prompts only if some were run."""
    compared = [(run, manifest, manifest.fidelity) for run, manifest in manifests if manifest.fidelity]
    if not compared:
        return []
    canaries = any(manifest.canaries for _, manifest, _ in compared)
    canary_heads = [
        Head(msg("quantization.repetition"), msg("quantization.repetition.help"), numeric=True),
        Head(msg("quantization.entropy"), msg("quantization.entropy.help"), numeric=True),
        Head(msg("quantization.same_tokens"), msg("quantization.same_tokens.help"), numeric=True),
    ]
    heads = [
        Head(msg("head.variant")),
        Head(msg("quantization.heldout"), msg("quantization.heldout.help")),
        Head(msg("quantization.kl"), msg("quantization.kl.help"), numeric=True),
        Head(msg("quantization.top1"), msg("quantization.top1.help"), numeric=True),
        Head(msg("quantization.perplexity"), msg("quantization.perplexity.help"), numeric=True),
        *(canary_heads if canaries else ()),
    ]
    rows = [
        [
            run.heading,
            Cell(
                recorded(fidelity.text_id),
                (msg("word.positions", n=fidelity.n_tokens),),
                f"SHA-256 {fidelity.text_sha256}",
            ),
            number(fidelity.kl_nats, fmt.significant, NATS_PER_TOKEN, notes=_of_rounding(fidelity)),
            number(fidelity.top1_agreement, fmt.percent, OF_ONE),
            number(
                fidelity.perplexity, fmt.two_decimals, notes=_of_source(fmt.two_decimals(fidelity.source_perplexity))
            ),
            *(_canary_cells(manifest.canaries) if canaries else ()),
        ]
        for run, manifest, fidelity in compared
    ]
    blocks: list[Block] = [Table(msg("quantization.fidelity"), heads, [Group(rows)])]
    return [*blocks, Text(msg("quantization.canaries"), "small")] if canaries else blocks


def _settings(manifests: Sequence[tuple[Run, Manifest]]) -> Details | None:
    """Return the settings as the checkpoints' own config files state them, one column per variant."""
    columns = {run.label: dict(_flat(m.quantization_config)) for run, m in manifests if m.quantization_config}
    if not columns:
        return None
    table = pd.DataFrame(columns, dtype=object).fillna(fmt.MISSING).sort_index()
    rows = [
        [Cell(str(name)), *map(Cell, row)] for name, row in zip(table.index, table.to_numpy().tolist(), strict=True)
    ]
    heads = [Head(msg("quantization.setting")), *map(Head, columns)]
    return Details(msg("quantization.settings"), [Table(msg("quantization.settings.caption"), heads, [Group(rows)])])


def _calibration(calibration: CalibrationFact | None, *, released: bool) -> list[Term]:
    if calibration is None:
        none = msg("calibration.release") if released else msg("word.none")
        return [Term(msg("calibration.title"), (none,))]
    amount = msg(
        "calibration.amount",
        set=recorded(calibration.id),
        samples=msg("calibration.samples", n=calibration.n_samples),
        longest=msg("word.tokens", n=calibration.max_seq_len),
        total=msg("word.tokens", n=calibration.n_tokens),
    )
    items = [
        Term(msg("calibration.title"), (amount, recorded(calibration.source))),
        Term(msg("calibration.hash"), (calibration.sha256,), code=True),
    ]
    if calibration.enable_thinking is not None:
        thinking = msg("calibration.enabled") if calibration.enable_thinking else msg("calibration.disabled")
        items.append(Term(msg("calibration.thinking"), (thinking,)))
    if calibration.chat_template_sha256:
        items.append(Term(msg("calibration.template_hash"), (calibration.chat_template_sha256,), code=True))
    return items


def _facts(manifest: Manifest) -> Terms:
    libraries = ", ".join(f"{name} {version}" for name, version in sorted(manifest.libraries.items()))
    items = [
        Term(msg("quantization.weights"), (recorded(manifest.provenance),)),
        Term(msg("quantization.layers"), (_format(manifest),)),
        *_calibration(manifest.calibration, released="release" in manifest.key.inputs),
    ]
    if manifest.experts_reached is not None:
        reached = msg("quantization.experts.reached", share=fmt.percent(manifest.experts_reached))
        items.append(Term(msg("quantization.experts"), (reached,)))
    proof = _proof(manifest)
    proven = msg("quantization.not_recorded")
    if proof:
        proven = msg("quantization.proof.value", time=fmt.seconds(proof[0]), memory=proof[1])
    built = msg("quantization.built.value", at=fmt.moment(manifest.created_at), time=fmt.seconds(manifest.build_s))
    files, weights = str(len(manifest.files)), fmt.size(manifest.checkpoint_bytes)
    return Terms(
        [
            *items,
            Term(msg("quantization.libraries"), (libraries or msg("word.none"),)),
            Term(msg("head.seed"), (str(manifest.seed),)),
            Term(msg("quantization.built"), (built,)),
            Term(msg("quantization.build_memory"), (fmt.size(manifest.peak_rss_bytes),)),
            Term(msg("quantization.proof"), (proven,)),
            Term(msg("quantization.files"), (msg("quantization.files.value", files=files, weights=weights),)),
            Term(msg("quantization.key"), (manifest.key.digest,), code=True),
        ]
    )


def _details(run: Run) -> Details:
    manifest = run.record.checkpoint
    blocks: list[Block] = [_facts(manifest)] if manifest else []
    notes = (*manifest.notes, *manifest.proof_notes) if manifest else ()
    for title, lines in ((msg("quantization.notes"), notes), (msg("quantization.log"), run.record.log)):
        blocks += [Heading(title), Bullets([recorded(line) for line in lines])] if lines else []
    return Details(msg("quantization.details", label=run.label), blocks)


def section(records: Sequence[RunRecord]) -> Section | None:
    """Return the quantization section; None if no run has a checkpoint or a log."""
    everything = runs(records)
    manifests = [(run, run.record.checkpoint) for run in everything if run.record.checkpoint]
    details = [_details(run) for run in everything if run.record.checkpoint or run.record.log]
    if not details:
        return None
    lead = Text(msg("quantization.lead"), "lead")
    blocks: list[Block] = [lead, _checkpoints(manifests), *_fidelity(manifests)] if manifests else []
    settings = _settings(manifests)
    return Section("quantization", msg("quantization.title"), [*blocks, *([settings] if settings else ()), *details])
