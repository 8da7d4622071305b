"""An lm-eval model that is a running server, spoken to in SGLang's native API with token ids.

Choices that are single tokens are scored together, in one request per item. Requests are sent in the order of their
token ids, so that items which share a few-shot prefix follow each other and the server computes it once.
"""

import asyncio
import math
import os
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import aiohttp
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from transformers import AutoTokenizer

from bench.accuracy.tasks import KEY_VARIABLE
from bench.errors import AccuracyError
from quantize.checkpoint import own_code

TokenRequest = tuple[tuple[str, str], list[int], list[int]]
"""lm-eval's form: ((context, continuation), context ids, continuation ids)."""


class ServedLM(TemplateLM):  # type: ignore[misc]  # lm-eval has no types
    """Answers lm-eval's three kinds of requests from a server."""

    def __init__(
        self,
        base_url: str,
        tokenizer: Path,
        *,
        max_length: int,
        max_gen_toks: int | None,
        concurrency: int,
        on_progress: Callable[[int, int], None],
    ) -> None:
        """Speak to the server at ``base_url``.

        Args:
            base_url: e.g. ``http://127.0.0.1:30000``.
            tokenizer: folder of the served checkpoint.
            max_length: longest prompt plus answer, tokens.
            max_gen_toks: overrides the tasks' own cap on answers; None keeps it.
            concurrency: requests under way at once.
            on_progress: called with (requests done, requests in all).
        """
        super().__init__()
        self.tokenizer = AutoTokenizer.from_pretrained(
            tokenizer, local_files_only=True, trust_remote_code=own_code(tokenizer)
        )
        self.max_length = max_length
        self.counts: Counter[str] = Counter()
        """Answers that need a look: truncated, empty, over_long."""
        self._url = f"{base_url}/generate"
        self._max_gen_toks = max_gen_toks
        self._concurrency = concurrency
        self._on_progress = on_progress

    @property
    def eot_token_id(self) -> int:
        """Id of the end-of-text token."""
        token: int = self.tokenizer.eos_token_id
        return token

    @property
    def tokenizer_name(self) -> str:
        """Name by which lm-eval tells prompts of different tokenizers apart."""
        name: str = self.tokenizer.name_or_path
        return name

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Return token ids, without special tokens unless asked, as lm-eval's own backend does for causal models."""
        ids: list[int] = self.tokenizer.encode(string, add_special_tokens=bool(add_special_tokens))
        return ids

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return the conversation as the model's own template writes it, with thinking off where it can be."""
        text: str = self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            enable_thinking=False,
            continue_final_message=not add_generation_prompt,
        )
        return text

    def _ask_all(self, bodies: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Send every body and return the answers in the same order, retrying each once.

        Raises:
            AccuracyError: the server refuses a request twice, or cannot be reached.
        """
        order = sorted(range(len(bodies)), key=lambda index: bodies[index]["input_ids"])
        answers: list[dict[str, Any]] = [{}] * len(bodies)
        waiting = iter(order)
        done = 0

        async def ask(session: aiohttp.ClientSession, body: dict[str, Any]) -> dict[str, Any]:
            problem = ""
            for _ in range(2):
                try:
                    async with session.post(self._url, json=body) as response:
                        if response.status == 200:
                            answer: dict[str, Any] = await response.json()
                            return answer
                        problem = f"HTTP {response.status}: {(await response.text())[:300]}"
                except (aiohttp.ClientError, TimeoutError, OSError) as error:
                    problem = f"{type(error).__name__}: {error}"
            raise AccuracyError(f"the server failed a request of {len(body['input_ids'])} tokens twice: {problem}")

        async def work(session: aiohttp.ClientSession) -> None:
            nonlocal done
            for index in waiting:
                answers[index] = await ask(session, bodies[index])
                done += 1
                self._on_progress(done, len(bodies))

        async def run() -> None:
            timeout = aiohttp.ClientTimeout(total=None, sock_read=3600)
            key = os.environ.get(KEY_VARIABLE)
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            async with aiohttp.ClientSession(timeout=timeout, headers=headers) as session:
                await _gather_or_cancel([work(session) for _ in range(min(self._concurrency, len(bodies)))])

        asyncio.run(run())
        return answers

    def _loglikelihood_tokens(
        self, requests: list[TokenRequest], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Return (log-probability in nats, whether greedy decoding would say it) for each continuation.

        Raises:
            AccuracyError: a context is longer than the model's, or a log-probability is not a finite number.
        """
        choices: dict[tuple[int, ...], list[int]] = {}
        for _, context, continuation in requests:
            if len(context) + len(continuation) > self.max_length:
                raise AccuracyError(
                    f"an item of {len(context) + len(continuation)} tokens is longer than the context of "
                    f"{self.max_length}: nothing is cut silently; use fewer examples (accuracy.num_fewshot=…)"
                )
            if len(continuation) == 1:
                choices.setdefault(tuple(context), []).append(continuation[0])
        rest = [(context, continuation) for _, context, continuation in requests if len(continuation) != 1]
        bodies = [_choice_request(context, tokens) for context, tokens in choices.items()]
        bodies += [_continuation_request(context, continuation) for context, continuation in rest]
        answers = self._ask_all(bodies)

        single: dict[tuple[tuple[int, ...], int], tuple[float, bool]] = {}
        for context_ids, answer in zip(choices, answers, strict=False):
            greedy = answer["output_ids"][0]
            for logprob, token, _ in answer["meta_info"]["output_token_ids_logprobs"][0]:
                single[context_ids, token] = (_finite(logprob), token == greedy)
        several = iter(
            _read_continuation(continuation, answer)
            for (_, continuation), answer in zip(rest, answers[len(choices) :], strict=True)
        )
        return [
            single[tuple(context), continuation[0]] if len(continuation) == 1 else next(several)
            for _, context, continuation in requests
        ]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the log-probability of each whole text, in windows of the model's length."""
        totals: list[float] = []
        for (text,) in [request.args for request in requests]:
            windows = get_rolling_token_windows(self.tok_encode(text), self.prefix_token_id, self.max_length - 1, 1)
            pieces = [(("", ""), *make_disjoint_window(window)) for window in windows]
            totals.append(sum(logprob for logprob, _ in self._loglikelihood_tokens(pieces)))
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return the generated text of each request; counts those truncated, empty, or too long to ask."""
        bodies: list[dict[str, Any]] = []
        places: list[int] = []
        texts = [""] * len(requests)
        for index, (context, settings) in enumerate(request.args for request in requests):
            ids = self.tok_encode(context)
            room = self.max_length - len(ids)
            if room < 1:
                self.counts["over_long"] += 1
                continue
            wanted = self._max_gen_toks or settings.get("max_gen_toks", 256)
            bodies.append(_generation_request(ids, settings, min(room, wanted)))
            places.append(index)
        for index, answer in zip(places, self._ask_all(bodies), strict=True):
            texts[index] = answer["text"]
            self.counts["truncated"] += answer["meta_info"]["finish_reason"]["type"] == "length"
            self.counts["empty"] += not answer["text"].strip()
        return texts


async def _gather_or_cancel(jobs: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run coroutines together; at the first error cancel the others and raise that error itself."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _choice_request(context: Sequence[int], tokens: Sequence[int]) -> dict[str, Any]:
    """Ask for the log-probabilities of several next tokens at once."""
    return {
        "input_ids": list(context),
        "sampling_params": {"max_new_tokens": 1, "temperature": 0, "ignore_eos": True},
        "return_logprob": True,
        "token_ids_logprob": list(dict.fromkeys(tokens)),
        "logprob_start_len": -1,
    }


def _continuation_request(context: Sequence[int], continuation: Sequence[int]) -> dict[str, Any]:
    """Ask for the log-probabilities of a continuation; the prefix before its context's last token may be cached."""
    return {
        "input_ids": [*context, *continuation],
        "sampling_params": {"max_new_tokens": 0, "temperature": 0, "ignore_eos": True},
        "return_logprob": True,
        "top_logprobs_num": 1,
        "logprob_start_len": len(context) - 1,
    }


def _generation_request(ids: Sequence[int], settings: dict[str, Any], max_new_tokens: int) -> dict[str, Any]:
    """Ask for text, with the task's own stops and temperature."""
    sampling: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "temperature": settings.get("temperature", 0.0) if settings.get("do_sample") else 0.0,
    }
    until = settings.get("until") or []
    if until:
        sampling["stop"] = [until] if isinstance(until, str) else list(until)
    return {"input_ids": list(ids), "sampling_params": sampling}


def _finite(logprob: float | None) -> float:
    """Return the log-probability.

    Raises:
        AccuracyError: NaN, infinite or missing; an argmax over such values would silently answer "A".
    """
    if logprob is None or not math.isfinite(logprob):
        raise AccuracyError(f"the server answered a log-probability of {logprob}: its logits are not finite numbers")
    return logprob


def _read_continuation(continuation: Sequence[int], answer: dict[str, Any]) -> tuple[float, bool]:
    meta = answer["meta_info"]
    entries = meta["input_token_logprobs"][-len(continuation) :]
    tops = meta["input_top_logprobs"][-len(continuation) :]
    if [token for _, token, _ in entries] != list(continuation):
        raise AccuracyError("the server scored other tokens than it was asked to")
    greedy = all(top[0][1] == token for top, token in zip(tops, continuation, strict=True))
    return sum(_finite(logprob) for logprob, _, _ in entries), greedy
