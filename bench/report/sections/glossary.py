"""What the statuses and the measures mean, each defined once."""

from collections.abc import Sequence

from bench.messages.message import msg
from bench.records.record import RunRecord
from bench.records.words import STATUS_MEANING
from bench.report.document import Heading, Section, Term, Terms, Text

ORDER = 70

MEASURES = (
    (msg("glossary.input"), msg("glossary.input.meaning")),
    (msg("glossary.ttft"), msg("glossary.ttft.meaning")),
    (msg("glossary.tpot"), msg("glossary.tpot.meaning")),
    (msg("glossary.decode_speed"), msg("glossary.decode_speed.meaning")),
    (msg("glossary.prefill_speed"), msg("glossary.prefill_speed.meaning")),
    (msg("glossary.end_to_end"), msg("glossary.end_to_end.meaning")),
    (msg("glossary.output_rate"), msg("glossary.output_rate.meaning")),
    (msg("glossary.batch_prefill"), msg("glossary.batch_prefill.meaning")),
    (msg("glossary.loops"), msg("glossary.loops.meaning")),
    (msg("glossary.goodput"), msg("glossary.goodput.meaning")),
    (msg("glossary.knee"), msg("glossary.knee.meaning")),
    (msg("glossary.percentiles"), msg("glossary.percentiles.meaning")),
    (msg("glossary.qwen_speed"), msg("glossary.qwen_speed.meaning")),
    (msg("glossary.median"), msg("glossary.median.meaning")),
    (msg("glossary.roof"), msg("glossary.roof.meaning")),
    (msg("glossary.mbu"), msg("glossary.mbu.meaning")),
    (msg("glossary.mfu"), msg("glossary.mfu.meaning")),
    (msg("glossary.bound_by"), msg("glossary.bound_by.meaning")),
    (msg("glossary.factors"), msg("glossary.factors.meaning")),
    (msg("glossary.client_bound"), msg("glossary.client_bound.meaning")),
    (msg("glossary.kv_per_token"), msg("glossary.kv_per_token.meaning")),
    (msg("glossary.energy_and_dollars"), msg("glossary.energy_and_dollars.meaning")),
    (msg("glossary.bits_per_weight"), msg("glossary.bits_per_weight.meaning")),
    (msg("glossary.kl_to_source"), msg("glossary.kl_to_source.meaning")),
    (msg("glossary.top1"), msg("glossary.top1.meaning")),
    (msg("glossary.canaries"), msg("glossary.canaries.meaning")),
    (msg("glossary.layer_error"), msg("glossary.layer_error.meaning")),
    (msg("glossary.experts_reached"), msg("glossary.experts_reached.meaning")),
    (msg("glossary.standard_error"), msg("glossary.standard_error.meaning")),
    (msg("glossary.paired_difference"), msg("glossary.paired_difference.meaning")),
    (msg("glossary.clustered_error"), msg("glossary.clustered_error.meaning")),
    (msg("glossary.flip"), msg("glossary.flip.meaning")),
    (msg("glossary.mcnemar"), msg("glossary.mcnemar.meaning")),
    (msg("glossary.holm"), msg("glossary.holm.meaning")),
    (msg("glossary.recovery"), msg("glossary.recovery.meaning")),
    (msg("glossary.choice_kl"), msg("glossary.choice_kl.meaning")),
    (msg("glossary.margin"), msg("glossary.margin.meaning")),
    (msg("glossary.worse"), msg("glossary.worse.meaning")),
    (msg("glossary.non_inferior"), msg("glossary.non_inferior.meaning")),
    (msg("glossary.inconclusive"), msg("glossary.inconclusive.meaning")),
    (msg("glossary.visible_loss"), msg("glossary.visible_loss.meaning")),
    (msg("glossary.noise_floor"), msg("glossary.noise_floor.meaning")),
    (msg("glossary.interaction"), msg("glossary.interaction.meaning")),
    (msg("glossary.floor"), msg("glossary.floor.meaning")),
)


def section(records: Sequence[RunRecord]) -> Section:
    """Return the legend and the glossary; the same for all records."""
    statuses = [Term("", (meaning,), status=status) for status, meaning in STATUS_MEANING.items()]
    measures = [Term(name, (meaning,)) for name, meaning in MEASURES]
    heads = Heading(msg("glossary.statuses")), Heading(msg("glossary.measures"))
    intro = Text(msg("glossary.intro"))
    return Section("glossary", msg("glossary.title"), [heads[0], intro, Terms(statuses), heads[1], Terms(measures)])
