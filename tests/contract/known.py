"""Known differences between the real server and the reference server. Both are asked, so that the list stays true."""

from collections.abc import Sequence
from dataclasses import dataclass

from tests.contract.answers import Answer
from tests.contract.asked import GREEDY, Asked


@dataclass(frozen=True)
class Difference:
    """One request that the two servers answer differently."""

    what: str
    """What is sent, as shown on the page."""
    asked: Asked
    real: str
    """What SGLang 0.5.23 answers, as `outcome` puts it."""
    reference: str
    """What the reference server answers."""
    matters: str
    """What the suite does about it."""


def outcome(answer: Answer) -> str:
    """Summarize an answer in a few words."""
    if answer.status != 200:
        return f"HTTP {answer.status}"
    last = answer.values()[-1]
    if "error" in last:
        return "an error event"
    meta = last["meta_info"]
    if meta["finish_reason"]["type"] == "abort":
        return "an aborted answer"
    n = meta["completion_tokens"]
    return f"{n} token{'s' * (n != 1)}"


def differences(ids: Sequence[int], context_length: int) -> tuple[Difference, ...]:
    """Return the known differences for a server of a context length, tokens."""
    ids = list(ids)

    def generate(prompt: object, n: int, **more: object) -> Asked:
        return Asked("/generate", {"input_ids": prompt, "sampling_params": {"max_new_tokens": n, **GREEDY}, **more})

    most = "the longest prompt and answer come from the server's own max_req_input_len, not from the context length"
    refused = "the reference server refuses what it does not support, so that nothing is silently ignored"
    return (
        Difference(
            "a prompt that ends 2 tokens before the context does, 2 new tokens",
            generate(ids[:1] * (context_length - 2), 2), "HTTP 400", "2 tokens", most,
        ),
        Difference(
            "the same, streamed",
            generate(ids[:1] * (context_length - 2), 2, stream=True), "an aborted answer", "2 tokens",
            "the client reads an abort as an error and does not count the token that comes with it",
        ),
        Difference(
            "a prompt that ends 7 tokens before the context does, 6 new tokens",
            generate(ids[:1] * (context_length - 7), 6), "5 tokens", "6 tokens",
            "cut without an error; the token count reveals it, and the trial is invalid",
        ),
        Difference("a field that does not exist", generate(ids, 1, nonsense=1), "1 token", "HTTP 400", refused),
        Difference(
            "both text and input_ids", generate(ids, 1, text="text"), "1 token", "HTTP 400", refused,
        ),
        Difference(
            "a batch, streamed", generate([ids, ids[:7]], 2, stream=True), "2 tokens", "HTTP 400",
            "the suite streams no batches",
        ),
    )  # fmt: skip


UNKNOWN_TOKEN = "a token id outside the vocabulary"
"""Ends the real server; the reference server answers HTTP 400. Prompts are drawn from the tokenizer's own ids."""


def unknown_token(vocab_size: int) -> Asked:
    """Return the request that ends the real server."""
    return Asked("/generate", {"input_ids": [vocab_size], "sampling_params": {"max_new_tokens": 1, **GREEDY}})
