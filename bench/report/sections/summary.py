"""What was measured, in words and in one row per variant."""

from collections.abc import Sequence
from dataclasses import replace

from bench import format as fmt
from bench.records.record import RunRecord
from bench.report.cells import points
from bench.report.document import Block, Cell, Group, Head, Note, Section, Table, Text, metric_cell, number
from bench.report.verdicts import Judged, judged
from bench.report.view import SHOWN, Run, is_own, runs, status_counts, tasks

ORDER = 8

SCORES = "Scores are the task's main metric ± one standard error. "
VERDICTS = (
    "Below a score stand its verdict, the change against the BF16 run of the same model in percentage points, and how "
    "many of the items that both answered were gained (+) and lost (−); the accuracy verdict gives the reasons. "
)
TESTED = "Whether a speed differs is tested where a variant and its baseline are both ok: see where the speed-up went."
EMULATED = (
    "The engine expanded the quantized weights back to 16 bits and computed with those. The rounding is real, so "
    "accuracy, fidelity and checkpoint size count, though quantized kernels round a little differently. The speed and "
    "the memory of the server are those of the 16-bit computation with the expansion on top: they say nothing about "
    "the variant, must not be compared with BF16 or with each other, and are shown only to document the run."
)


def _headline(everything: Sequence[Run]) -> str:
    models = list(dict.fromkeys(run.record.variant.model for run in everything))
    engines = sorted({run.record.engine for run in everything})
    cells = [cell.status for run in everything for cell in run.record.cells]
    scores = [score.status for run in everything for score in run.record.scores]
    failures = sum(len(run.record.failures) for run in everything)
    of = models[0] if len(models) == 1 else fmt.plural(len(models), "model")
    what = "variant" if len(engines) == 1 else "run"
    text = f"{fmt.plural(len(everything), what)} of {of}, served by {' and '.join(engines)}: "
    text += f"{sum(s in SHOWN for s in cells)} of {fmt.plural(len(cells), 'speed cell')} and "
    text += f"{sum(s in SHOWN for s in scores)} of {fmt.plural(len(scores), 'task score')} gave figures"
    return f"{text}; {fmt.plural(failures, 'stage')} failed." if failures else f"{text}."


def _facts(everything: Sequence[Run]) -> str:
    """Name the smallest and the most faithful quantized checkpoint of each model: exact numbers, so no test is due."""
    sentences = []
    for model in dict.fromkeys(run.record.variant.model for run in everything):
        made = [
            (run, run.record.checkpoint)
            for run in everything
            if run.record.variant.model == model and run.quantized and run.record.checkpoint
        ]
        if len(made) < 2:
            continue
        run, checkpoint = min(made, key=lambda pair: pair[1].checkpoint_bytes)
        sentences.append(f"Smallest checkpoint: {run.label}, {fmt.size(checkpoint.checkpoint_bytes)}.")
        near = [(run, checkpoint.fidelity) for run, checkpoint in made if checkpoint.fidelity]
        if near:
            run, fidelity = min(near, key=lambda pair: pair[1].kl_nats)
            sentences.append(
                f"Closest to its source: {run.label}, KL {fmt.significant(fidelity.kl_nats)} nats per token."
            )
    return " ".join(sentences)


def _checkpoint_cells(run: Run) -> list[Cell]:
    made = run.record.checkpoint
    before = run.baseline.checkpoint if run.baseline else None
    if made is None:
        return [number(None, fmt.size)] * 3
    ratio = (f"{made.checkpoint_bytes / before.checkpoint_bytes:.2f} of BF16",) if before else ()
    fidelity = made.fidelity
    top1 = (f"{fmt.percent(fidelity.top1_agreement)} top-1",) if fidelity else ()
    return [
        number(made.bits_per_quantized_weight, fmt.significant, "bits"),
        number(made.checkpoint_bytes, fmt.size, "bytes", notes=ratio),
        number(fidelity.kl_nats if fidelity else None, fmt.significant, "nats per token", notes=top1),
    ]


def _speed_cells(run: Run) -> list[Cell]:
    """Return the longest measured input with its status, and decode speed and TTFT there."""
    measured = run.measured()
    if not measured:
        return [Cell(), number(None, fmt.rate), number(None, fmt.seconds)]
    cell, summary = measured[-1]
    decode = summary.decode_tokens_per_s.median if summary.decode_tokens_per_s else None
    ttft = summary.ttft_s.median if summary.ttft_s else None
    faint = cell.status == "emulated"
    return [
        Cell("", (f"{fmt.count(cell.input_len)} in",), status=cell.status),
        number(decode, fmt.rate, "tokens/s", faint=faint),
        number(ttft, fmt.seconds, "s", faint=faint),
    ]


def _score_cell(run: Run, task: str, beside: Judged | None) -> Cell:
    score = run.score(task)
    if score is None:
        return number(None, fmt.share)
    if score.status not in SHOWN or not score.metrics:
        return Cell("", status=score.status)
    if beside is None:
        return metric_cell(score.metrics[0])
    if beside.verdict is None:
        return metric_cell(score.metrics[0], ("not compared",))
    found = beside.verdict.comparison
    notes = (f"{points(found.delta.value)} pp", f"+{found.gained} −{found.lost} of {fmt.count(found.n)}")
    return replace(metric_cell(score.metrics[0], notes), verdict=beside.verdict.kind)


def _status_cell(record: RunRecord) -> Cell:
    """Return the counts of what needs a look; or the one status that everything has."""
    counts = status_counts(record)
    lines = [f"{times} × {status.replace('_', ' ')}" for status, times in counts.items()]
    if record.failures:
        lines.append(fmt.plural(len(record.failures), "failure"))
    if record.finished_at is None:
        lines.append("cut short")
    if not counts:
        lines.insert(0, "nothing measured")
    return Cell("", tuple(lines))


def _table(everything: Sequence[Run], names: Sequence[str], found: Sequence[Judged]) -> Table:
    beside = {(one.run.label, one.score.task): one for one in found}
    heads = [
        Head("Variant", "quantization, and the model below it"),
        Head("Results", "number of speed cells and scores with each status"),
        Head("Bits / weight", "stored bits per quantized weight, scales and zero points included", numeric=True),
        Head("Checkpoint", "bytes of all safetensors files", numeric=True),
        Head(
            "KL", "divergence from the source, nats per token on held-out text; below it top-1 agreement", numeric=True
        ),
        Head("Speed of", "longest measured input in tokens, at the lowest concurrency, and its status"),
        Head("Decode", "decode speed, median at the longest measured input", numeric=True),
        Head("TTFT", "time to first token, median at the longest measured input", numeric=True),
        *(Head(task, "main metric ± one standard error", numeric=True) for task in names),
    ]
    rows = [
        [
            replace(run.heading, notes=(run.record.variant.model,)),
            _status_cell(run.record),
            *_checkpoint_cells(run),
            *_speed_cells(run),
            *(_score_cell(run, task, beside.get((run.label, task))) for task in names),
        ]
        for run in everything
    ]
    return Table("One row per variant", heads, [Group(rows)])


def section(records: Sequence[RunRecord]) -> Section:
    """Return the summary."""
    everything, names, found = runs(records), tasks(records), judged(records)
    blocks: list[Block] = [Text(_headline(everything), "lead")]
    facts = _facts(everything)
    if facts:
        blocks.append(Text(facts))
    measured = [counts for run in everything if run.quantized and (counts := status_counts(run.record))]
    if any(counts["emulated"] for counts in measured) and not any(counts["ok"] for counts in measured):
        blocks.append(Note("Every quantized variant ran emulated", EMULATED))
    blocks.append(_table(everything, names, found))
    explain = SCORES + VERDICTS if any(one.verdict for one in found) else SCORES
    if any(map(is_own, names)):
        explain += "Tasks named mini-… are small sets of quantbench's own and not comparable with published scores. "
    emulated = "Speed marked emulated must not be compared with anything. "
    shows_emulated = any(cell.status == "emulated" for run in everything for cell in run.record.cells)
    blocks.append(Text(f"{explain if names else ''}{emulated if shows_emulated else ''}{TESTED}", "small"))
    return Section("summary", "Summary", blocks)
