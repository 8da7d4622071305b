"""The requests of the contract: the same for every server, except for token ids, which depend on the vocabulary."""

from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_letters
from typing import Any, Literal

GREEDY = {"temperature": 0, "ignore_eos": True}
STREAM_USAGE = {"include_usage": True, "continuous_usage_stats": True}
N_IDS = 40
"""Length of the prompt that most requests send, tokens."""
SCORED_FROM = 35
"""First position of that prompt that is scored."""
MOST_STOPS = 32
"""Most stop texts that SGLang accepts."""
MODEL = "contract"
"""Name of the model in OpenAI's requests; SGLang accepts any."""


@dataclass(frozen=True)
class Asked:
    """One request. The cache is flushed before it, so that the answer does not depend on earlier requests."""

    path: str
    body: Any = None
    """Sent as JSON; None sends nothing."""
    method: Literal["GET", "POST"] = "POST"
    warmed: bool = False
    """Whether it is sent twice and the second answer counts, for which the prompt is in the cache."""

    @property
    def what(self) -> str:
        """The request in a few words."""
        streamed = isinstance(self.body, dict) and self.body.get("stream")
        return f"{self.method} {self.path}{', streamed' if streamed else ''}{', cached' if self.warmed else ''}"


def _generate(ids: Any, n: int, *, warmed: bool = False, **more: Any) -> Asked:
    body = {"input_ids": ids, "sampling_params": {"max_new_tokens": n, **GREEDY}, **more}
    return Asked("/generate", body, warmed=warmed)


def _completion(ids: Sequence[int], n: int, **more: Any) -> Asked:
    body = {"model": MODEL, "prompt": list(ids), "max_tokens": n, "min_tokens": n, **GREEDY, **more}
    return Asked("/v1/completions", body)


def requests(ids: Sequence[int], *, choices: Sequence[int], context_length: int) -> dict[str, Asked]:
    """Return the requests by name.

    Args:
        ids: a prompt of ``N_IDS`` ordinary token ids.
        choices: ids whose log-probabilities are requested.
        context_length: of the server, tokens; one more is too long.
    """
    assert len(ids) == N_IDS
    ids = list(ids)
    too_long = {"input_ids": ids[:1] * (context_length + 1)}
    too_many = {"max_new_tokens": 1, "stop": [str(number) for number in range(MOST_STOPS + 1)]}
    stop = {"max_new_tokens": 500, "stop": list(ascii_letters[:MOST_STOPS]), **GREEDY}
    return {
        "generate": _generate(ids, 4),
        "generate_cached": _generate(ids, 4, warmed=True),
        "generate_batch": _generate([ids, ids[7:]], 2),
        "generate_one_input_token": _generate(ids[:1], 2),
        "generate_one_output_token": _generate(ids, 1, stream=True),
        "generate_stop": Asked("/generate", {"text": "text", "sampling_params": stop}),
        "generate_stream": _generate(ids, 5, stream=True),
        "score_choices": _generate(
            ids, 1, return_logprob=True, token_ids_logprob=list(choices), logprob_start_len=-1, warmed=True
        ),
        "score_continuation": _generate(ids, 0, return_logprob=True, logprob_start_len=SCORED_FROM, top_logprobs_num=1),
        "score_stream": _generate(ids, 2, return_logprob=True, top_logprobs_num=2, stream=True),
        "error_bad_json": Asked("/generate", "nonsense"),
        "error_bad_param": Asked("/generate", {"input_ids": ids, "sampling_params": {"max_new_tokens": -3}}),
        "error_empty": _generate([], 1),
        "error_too_many_stops": Asked("/generate", {"text": "text", "sampling_params": too_many}),
        "error_too_long": Asked("/generate", too_long),
        "error_too_long_stream": Asked("/generate", {**too_long, "stream": True}),
        "flush_cache": Asked("/flush_cache"),
        "health": Asked("/health", method="GET"),
        "health_generate": Asked("/health_generate", method="GET"),
        "model_info": Asked("/model_info", method="GET"),
        "not_found": Asked("/nope", method="GET"),
        "server_info": Asked("/server_info", method="GET"),
        "completions": _completion(ids, 3),
        "completions_stream": _completion(ids, 3, stream=True, stream_options=STREAM_USAGE),
        "models": Asked("/v1/models", method="GET"),
    }


INCREMENTAL = ("generate_stream", "score_stream")
"""Also sent, as ``NAME_incremental``, to a real server started with ``--incremental-streaming-output``."""
