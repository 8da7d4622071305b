"""What was measured, in words and in one row per variant."""

from collections.abc import Sequence
from dataclasses import replace

from bench import format as fmt
from bench.messages.message import Message, Words, linked, msg, sentences
from bench.records.record import RunRecord
from bench.records.words import STATUS
from bench.report.cells import points
from bench.report.document import Block, Cell, Group, Head, Note, Section, Table, Text, metric_cell, number
from bench.report.units import BITS, BYTES, NATS_PER_TOKEN
from bench.report.verdicts import Judged, judged
from bench.report.view import SHOWN, Run, is_own, runs, status_counts, tasks
from bench.speed.figures import EmulatedCell

ORDER = 8


def _headline(everything: Sequence[Run]) -> Message:
    models = list(dict.fromkeys(run.record.variant.model for run in everything))
    engines = sorted({run.record.engine for run in everything})
    cells = [cell.status for run in everything for cell in run.record.cells]
    scores = [score.status for run in everything for score in run.record.scores]
    failures = sum(len(run.record.failures) for run in everything)
    number_of = len(everything)
    what = msg("summary.variants", n=number_of) if len(engines) == 1 else msg("summary.runs", n=number_of)
    of = models[0] if len(models) == 1 else msg("summary.models", n=len(models))
    by = linked(engines)
    speed = msg("summary.speed_cells", n=len(cells), shown=str(sum(status in SHOWN for status in cells)))
    tasks = msg("summary.task_scores", n=len(scores), shown=str(sum(status in SHOWN for status in scores)))
    if not failures:
        return msg("summary.headline", runs=what, models=of, engines=by, cells=speed, scores=tasks)
    stages = msg("summary.stages", n=failures)
    return msg("summary.headline.failed", runs=what, models=of, engines=by, cells=speed, scores=tasks, stages=stages)


def _facts(everything: Sequence[Run]) -> Words:
    """Name the smallest and the most faithful quantized checkpoint of each model: exact, so no test is needed."""
    facts: list[Words] = []
    for model in dict.fromkeys(run.record.variant.model for run in everything):
        checkpoints = [
            (run, run.record.checkpoint)
            for run in everything
            if run.record.variant.model == model and run.quantized and run.record.checkpoint
        ]
        if len(checkpoints) < 2:
            continue
        run, checkpoint = min(checkpoints, key=lambda pair: pair[1].checkpoint_bytes)
        facts.append(msg("summary.smallest", label=run.label, size=fmt.size(checkpoint.checkpoint_bytes)))
        near = [(run, checkpoint.fidelity) for run, checkpoint in checkpoints if checkpoint.fidelity]
        if near:
            run, fidelity = min(near, key=lambda pair: pair[1].kl_nats)
            facts.append(msg("summary.closest", label=run.label, kl=fmt.significant(fidelity.kl_nats)))
    return sentences(facts) if facts else ""


def _checkpoint_cells(run: Run) -> list[Cell]:
    checkpoint = run.record.checkpoint
    before = run.baseline.checkpoint if run.baseline else None
    if checkpoint is None:
        return [number(None, fmt.size)] * 3
    ratio = (
        (msg("summary.of_bf16", ratio=f"{checkpoint.checkpoint_bytes / before.checkpoint_bytes:.2f}"),)
        if before
        else ()
    )
    fidelity = checkpoint.fidelity
    top1 = (msg("summary.top1", share=fmt.percent(fidelity.top1_agreement)),) if fidelity else ()
    return [
        number(checkpoint.bits_per_quantized_weight, fmt.significant, BITS),
        number(checkpoint.checkpoint_bytes, fmt.size, BYTES, notes=ratio),
        number(fidelity.kl_nats if fidelity else None, fmt.significant, NATS_PER_TOKEN, notes=top1),
    ]


def _speed_cells(run: Run) -> list[Cell]:
    """Return the longest measured input with its status, and decode speed and TTFT there."""
    listed = run.recorded()
    if not listed:
        return [Cell(), number(None, fmt.rate), number(None, fmt.seconds)]
    cell, summary = listed[-1].cell, listed[-1].recorded
    decode = summary.decode_tokens_per_s.median if summary.decode_tokens_per_s else None
    ttft = summary.ttft_s.median if summary.ttft_s else None
    faint = isinstance(listed[-1], EmulatedCell)
    return [
        Cell("", (msg("shape.in", length=fmt.count(cell.input_len)),), status=cell.status),
        number(decode, fmt.rate, "tokens/s", faint=faint),
        number(ttft, fmt.seconds, "s", faint=faint),
    ]


def _score_cell(run: Run, task: str, judgement: Judged | None) -> Cell:
    score = run.score(task)
    if score is None:
        return number(None, fmt.share)
    if score.status not in SHOWN or not score.metrics:
        return Cell("", status=score.status)
    if judgement is None:
        return metric_cell(score.metrics[0])
    if judgement.verdict is None:
        return metric_cell(score.metrics[0], (msg("verdict.not_compared"),))
    comparison = judgement.verdict.comparison
    flips = msg("summary.flips", flips=f"+{comparison.gained} −{comparison.lost}", total=fmt.count(comparison.n))
    notes = (f"{points(comparison.delta.value)} pp", flips)
    return replace(metric_cell(score.metrics[0], notes), verdict=judgement.verdict.kind)


def _status_cell(record: RunRecord) -> Cell:
    """Return the counts of results by status, and of failures."""
    counts = status_counts(record)
    lines = [msg("summary.count", times=str(times), status=STATUS[status]) for status, times in counts.items()]
    if record.failures:
        lines.append(msg("summary.failures", n=len(record.failures)))
    if record.finished_at is None:
        lines.append(msg("word.interrupted"))
    if not counts:
        lines.insert(0, msg("summary.nothing"))
    return Cell("", tuple(lines))


def _table(everything: Sequence[Run], names: Sequence[str], judgements: Sequence[Judged]) -> Table:
    judgement_of = {(judgement.run.label, judgement.score.task): judgement for judgement in judgements}
    heads = [
        Head(msg("head.variant"), msg("summary.variant.help")),
        Head(msg("summary.results"), msg("summary.results.help")),
        Head(msg("head.bits_per_weight"), msg("head.bits_per_weight.help"), numeric=True),
        Head(msg("head.checkpoint"), msg("head.checkpoint.help"), numeric=True),
        Head(msg("head.kl"), msg("summary.kl.help"), numeric=True),
        Head(msg("summary.speed_of"), msg("summary.speed_of.help")),
        Head(msg("summary.decode"), msg("summary.decode.help"), numeric=True),
        Head(msg("head.ttft"), msg("summary.ttft.help"), numeric=True),
        *(Head(task, msg("summary.score.help"), numeric=True) for task in names),
    ]
    rows = [
        [
            replace(run.heading, notes=(run.record.variant.model,)),
            _status_cell(run.record),
            *_checkpoint_cells(run),
            *_speed_cells(run),
            *(_score_cell(run, task, judgement_of.get((run.label, task))) for task in names),
        ]
        for run in everything
    ]
    return Table(msg("summary.caption"), heads, [Group(rows)])


def _explanation(everything: Sequence[Run], names: Sequence[str], judgements: Sequence[Judged]) -> Words:
    parts = [msg("summary.scores")] if names else []
    if any(judgement.verdict for judgement in judgements):
        parts.append(msg("summary.verdicts"))
    if any(map(is_own, names)):
        parts.append(msg("summary.own_tasks"))
    if any(cell.status == "emulated" for run in everything for cell in run.record.cells):
        parts.append(msg("summary.emulated_speed"))
    return sentences([*parts, msg("summary.tested")])


def section(records: Sequence[RunRecord]) -> Section:
    """Return the summary."""
    everything, names, judgements = runs(records), tasks(records), judged(records)
    blocks: list[Block] = [Text(_headline(everything), "lead")]
    facts = _facts(everything)
    if facts:
        blocks.append(Text(facts))
    measured = [counts for run in everything if run.quantized and (counts := status_counts(run.record))]
    if any(counts["emulated"] for counts in measured) and not any(counts["ok"] for counts in measured):
        blocks.append(Note(msg("summary.emulated.title"), msg("summary.emulated")))
    blocks += [_table(everything, names, judgements), Text(_explanation(everything, names, judgements), "small")]
    return Section("summary", msg("summary.title"), blocks)
