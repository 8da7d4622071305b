"""What the statuses and the measures mean, each defined once."""

from collections.abc import Sequence

from bench.records.record import STATUS_MEANING, RunRecord
from bench.report.document import Heading, Section, Term, Terms, Text

ORDER = 70

MEASURES = {
    "Input": (
        "Exactly as many token ids as stated, drawn at random from the ordinary vocabulary, new in every trial, so "
        "that no prefix is shared. The server's own counts must agree, and nothing may come from its cache."
    ),
    "TTFT (time to first token)": "From just before the request is sent to the arrival of the first token, in seconds.",
    "TPOT (time per output token)": (
        "Time from the first to the last event, divided by the tokens that came after the first event. Undefined for "
        "an answer of one token."
    ),
    "Decode speed": "1 / TPOT: tokens per second of one request once its answer has begun.",
    "Prefill speed": "Prompt tokens / TTFT. At short inputs it is mostly fixed cost.",
    "End to end": "From just before the request is sent to its last token.",
    "Output rate": "Generated tokens of all requests that ran at once, divided by the time they took together.",
    "Batch prefill speed": (
        "Prompt tokens of all requests that were sent together / time to the last one's first token."
    ),
    "Closed and open loop": (
        "A closed loop keeps a number of requests under way, each sent when another is done. An open loop sends them "
        "at random times at a given rate, whether or not the server keeps up, and counts latencies from when a request "
        "was due. A rate at which the queue only grows is stopped: it has a throughput and no latencies."
    ),
    "Goodput": "Requests per second that kept the workload's objective, a longest TTFT and TPOT.",
    "Knee": (
        "The load with the highest throughput / latency (Kleinrock 1979): beyond it, waiting grows faster than the "
        "work done."
    ),
    "Percentiles": "Over the requests of all trials; p90 from 20 requests on and p99 from 200, for fewer carry none.",
    "Qwen speed": (
        "(Prompt + generated tokens) / end-to-end time, the figure in Qwen's published tables. It grows with the "
        "prompt because it counts it, so it stands beside the other figures and never for them."
    ),
    "Median and interval": (
        "Speed is the median over trials; the interval below it is where resampling the trials puts that median. With "
        "few trials it is wide or rough, and with one trial there is none."
    ),
    "Physical limit, roof": (
        "The least time that a piece of work takes on a device: the bytes it must move over the memory's bandwidth, or "
        "its multiplications over the arithmetic's peak, whichever is longer. The roof of decode speed is 1 / least "
        "TPOT. Bandwidth and peak are the makers' figures, or measured on a CPU. A cell faster than that is an error."
    ),
    "MBU (model bandwidth utilisation)": (
        "Bytes that a decode step must read / TPOT / bandwidth. The bytes are all weights that the step uses, once, "
        "without the input embeddings, and the keys and values of every request at the middle of its answer. With "
        "experts it is their expected number if every token picks at random."
    ),
    "MFU (model FLOPs utilisation)": (
        "Multiplications and additions of the prefill / TTFT / peak, each kind of number at its own peak: quantized "
        "layers as they are multiplied (weight-only ones in 16 bits), the rest in 16 bits. Of requests sent together "
        "it counts those up to the median one."
    ),
    "Bound by": "Which of the two makes up the limit: memory or compute. It says nothing of what was lost below it.",
    "Factors of a speed-up": (
        "Bits of a weight, layers left in 16 bits, keys and values, kernels and fixed time per step: numbers whose "
        "product is the measured ratio of BF16's time to the variant's. Fixed time is what a line through BF16's steps "
        "of several input lengths leaves for a step of no bytes."
    ),
    "client_bound": (
        "How late the measuring process's event loop was (99th percentile) could put TTFT off by more than 5 "
        "milliseconds and 5 %, or TPOT by more than 1 %. A client that had no core to itself makes the cell invalid."
    ),
    "Keys and values per token": (
        "2 x layers x key-value heads x head size x bytes of their type: memory that a token of context takes."
    ),
    "Energy and dollars per million tokens": (
        "Joules of all accelerators during a trial, by their own counter or by power over time, and the machine's "
        "price for that time, over the tokens generated. Trials too short for the readings are left out."
    ),
    "Bits per quantized weight": (
        "Bits stored for each weight of the quantized layers, with scales and zero points; embeddings and other layers "
        "left in 16 bits are not in it, but they are in the checkpoint's size."
    ),
    "KL to source": (
        "Mean Kullback-Leibler divergence from the source's next-token distribution to this checkpoint's, nats per "
        "token, on text that calibration never saw. 0 is identical. A measure of fidelity, not of accuracy."
    ),
    "Top-1 agreement": "Share of those positions at which both find the same token most likely.",
    "Canary prompts": (
        "A few beginnings of held-out texts, continued greedily by the checkpoint and by its source. Repetition is the "
        "share of token pairs that occurred before in the same continuation. Entropy is that of the next-token "
        "distribution, mean over the new tokens, in nats: at 0 the model is certain of everything. Same tokens is the "
        "share of new tokens that equal the source's at the same place."
    ),
    "Relative output error": (
        "|output - source's output| / |source's output| of one linear layer, Frobenius norms over held-out positions; "
        "0 is identical. Attention and MLP of a decoder layer are each fed with the source's own states. Outputs of "
        "v_proj and up_proj are compared up to a factor per channel, because AWQ moves such factors into the next "
        "layer. The experts of a decoder layer are compared as one block."
    ),
    "Experts reached": (
        "Share of all experts that the router itself sent calibration tokens to. What the others were calibrated on, "
        "if on anything, depends on the method."
    ),
    "Standard error (±)": (
        "How far a score would typically move on another sample of items of the same kind. It belongs to one score, "
        "not to a difference of two."
    ),
    "Paired difference (change)": (
        "Mean over items of the variant's result minus the BF16 run's on the same item, same document and same prompt. "
        "Each item is its own control, so it is far surer than the difference of two scores with an error each."
    ),
    "Clustered standard error": (
        "That of a difference if subjects, each with all its items, were drawn at random (CR2): the items of a subject "
        "tend to change together. Used from 10 subjects on, with t intervals whose degrees of freedom follow Bell and "
        "McCaffrey; with fewer, items count as drawn at random."
    ),
    "Flip": (
        "An item whose result differs from the BF16 run's: gained if it was wrong and is right, lost if the other way "
        "round. Equal scores can hide many flips."
    ),
    "McNemar's test": (
        "Exact probability of as uneven a split of flips into gained and lost, if either were as likely. It does not "
        "know of subjects and is not corrected, so it decides nothing here."
    ),
    "Holm correction": (
        "Of many comparisons some look bad by chance. Holm's correction raises the p values so that all of a report's "
        "together call anything worse by chance in at most 2.5 % of reports, half of the usual 5 %."
    ),
    "Recovery": "Variant's score divided by the BF16 run's over the same items. Below chance level it means nothing.",
    "Choice-KL": (
        "Mean Kullback-Leibler divergence from the BF16 run's probabilities of an item's choices to the variant's, "
        "nats, those of each item made to sum to 1. It sees what moves without flipping. Fidelity, not accuracy."
    ),
    "Margin": (
        "A loss that does not matter, set before anything is measured: accuracy.margin, by default one percentage "
        "point."
    ),
    "Worse": "The loss is significant after Holm's correction, and not surely smaller than the margin.",
    "Non-inferior": (
        "The interval that holds for all comparisons of the report at once lies above minus the margin. A real loss "
        "that is surely smaller than the margin is non-inferior too, and the reason tells of it."
    ),
    "Inconclusive": "Neither worse nor non-inferior: too few items for what they show. It does not mean equal.",
    "Visible loss (MDE, minimum detectable effect)": (
        "Smallest true loss that these items would show as worse with 80 % probability, if as many answers change as "
        "did, and as the hardest of the report's comparisons. Smaller losses are easily missed."
    ),
    "Noise floor": (
        "The BF16 run against itself: asked again in another order, so that other requests are computed together. What "
        "flips there flips by rounding and ties alone."
    ),
    "Interaction": (
        "Change on one engine minus change on another. 0 if quantization costs the same on both, so that a loss comes "
        "with the weights."
    ),
    "Floor of a task": (
        "2 x weights of the linear layers x unique prompt tokens, plus their attention, over the device's peak: the "
        "least time in which the prompts can be read where every common beginning is computed once."
    ),
}  # fmt: skip


def section(records: Sequence[RunRecord]) -> Section:
    """Return the legend and the glossary; the same for all records."""
    statuses = [Term("", (meaning,), status=status) for status, meaning in STATUS_MEANING.items()]
    measures = [Term(name, (text,)) for name, text in MEASURES.items()]
    intro = "Every speed cell and every score carries one status. Only ok cells may enter a comparison of speed."
    return Section(
        "glossary",
        "Statuses and measures",
        [Heading("Statuses"), Text(intro), Terms(statuses), Heading("Measures"), Terms(measures)],
    )
