"""An lm-eval model that is a running server: lm-eval's requests become questions, and answers become its results.

Prompts are tokenized exactly as in lm-eval's own backend for transformers (``HFLM`` of lm-eval 0.4.13), so that the
server receives what that backend would have received. Nothing is ever truncated to fit.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import has_bos_prefix, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from transformers import AutoTokenizer

from bench.accuracy.asking import Asker
from bench.accuracy.questions import PromptNote, Question, Sampling
from bench.errors import AccuracyError
from bench.records.record import Mode, Problem
from quantize.checkpoint import own_code

TokenRequest = tuple[tuple[str, str], list[int], list[int]]
"""lm-eval's format: ((context, continuation), context ids, continuation ids)."""
REASONING_END = "</think>"
"""End of the reasoning of Qwen3, DeepSeek-R1 and similar models."""
TOGETHER = 512
"""Continuations encoded in one batch: all 56,168 of MMLU at once would take 8 GB."""


class ServedLM(TemplateLM):  # type: ignore[misc]  # lm-eval has no types
    """Answers lm-eval's three kinds of requests from a server."""

    def __init__(
        self,
        asker: Asker,
        tokenizer: Path,
        *,
        max_length: int,
        thinking: bool,
        max_gen_toks: int | None,
        sampling: Mode | None = None,
        seed: int = 0,
    ) -> None:
        """Ask through ``asker``.

        Args:
            asker: asks the server.
            tokenizer: folder of the served checkpoint.
            max_length: longest prompt plus answer, tokens.
            thinking: whether the chat template lets the model reason first.
            max_gen_toks: overrides the tasks' own limit on answers; None keeps it.
            sampling: overrides the tasks' own sampling parameters; None keeps them.
            seed: sampling seed, where the server accepts one.

        Raises:
            AccuracyError: ``thinking`` is set for a model that cannot reason.
        """
        super().__init__()
        self.tokenizer = AutoTokenizer.from_pretrained(
            tokenizer, local_files_only=True, trust_remote_code=own_code(tokenizer)
        )
        self.max_length = max_length
        self.notes: dict[str, PromptNote] = {}
        """Notes by prompt."""
        self.reasons = REASONING_END in str(self.tokenizer.chat_template)
        """Whether answers may start with reasoning, which is stripped."""
        self._asker = asker
        self._thinking = thinking
        self._max_gen_toks = max_gen_toks
        self._mode = sampling
        self._seed = seed
        if thinking and not self.reasons:
            raise AccuracyError(
                f"accuracy.thinking=true: this model's chat template has no reasoning that ends with {REASONING_END}"
            )

    @property
    def eot_token_id(self) -> int:
        """Id of the end-of-text token."""
        token: int = self.tokenizer.eos_token_id
        return token

    @property
    def prefix_token_id(self) -> int:
        """Id of the token before a text without context: beginning-of-text, if the model has it, or end-of-text."""
        token = self.tokenizer.bos_token_id
        return self.eot_token_id if token is None else int(token)

    @property
    def tokenizer_name(self) -> str:
        """Name by which lm-eval distinguishes prompts of different tokenizers."""
        name: str = self.tokenizer.name_or_path
        return name

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Return token ids; the tokenizer adds its special tokens unless the text already starts with one."""
        return self._encode([string], add_special_tokens)[string]

    def _encode(self, texts: Iterable[str], add_special_tokens: bool | None = None) -> dict[str, list[int]]:
        """Return the token ids of texts, encoded in one batch, which uses all cores."""
        encoded: dict[str, list[int]] = {}
        first = self.tokenizer.decode(self.prefix_token_id)
        for has_bos, group in itertools.groupby(dict.fromkeys(texts), lambda text: has_bos_prefix(text, first)):
            batch = list(group)
            adds = False if has_bos and add_special_tokens is None else add_special_tokens
            options = {} if adds is None else {"add_special_tokens": adds}
            encoded |= zip(batch, self.tokenizer(batch, **options)["input_ids"], strict=True)
        return encoded

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return the conversation as formatted by the model's own template, with or without reasoning."""
        text: str = self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            enable_thinking=self._thinking,
            continue_final_message=not add_generation_prompt,
        )
        return text

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return (log-probability, whether it is the greedy one) of each continuation; see `TemplateLM`."""
        pairs = [request.args for request in requests]
        tokens: list[TokenRequest] = []
        for begin in range(0, len(pairs), TOGETHER):
            tokens += self._encode_pairs(pairs[begin : begin + TOGETHER])
        return self._loglikelihood_tokens(tokens)

    def _encode_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[TokenRequest]:
        """Return the token ids of contexts and continuations as `TemplateLM` splits them, encoding each text once."""
        stripped = [(context.rstrip(), context[len(context.rstrip()) :] + end) for context, end in pairs if context]
        ids = self._encode([text for context, end in stripped for text in (context, context + end)])
        encoded = iter((ids[context], ids[context + end]) for context, end in stripped)
        tokens: list[TokenRequest] = []
        for context, end in pairs:
            if context:
                before, both = next(encoded)
                tokens.append(((context, end), before, both[len(before) :]))
            else:
                alone = self.tok_encode(end, add_special_tokens=False)
                split = 1 if alone[0] == self.prefix_token_id else 0
                tokens.append(((context, end), alone[:split] or [self.prefix_token_id], alone[split:]))
        return tokens

    def _loglikelihood_tokens(
        self, requests: list[TokenRequest], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Return (log-probability in nats, whether it is the greedy one) for each continuation.

        Raises:
            AccuracyError: an item is longer than the model's context, or cannot be scored.
        """
        self._refuse_over_long(requests)
        choices: dict[tuple[int, ...], dict[int, None]] = {}
        for (text, _), context, continuation in requests:
            if len(continuation) == 1:
                choices.setdefault(tuple(context), {})[continuation[0]] = None
            before = self.notes.get(text, PromptNote(0))
            self.notes[text] = PromptNote(max(before.prompt_tokens, len(context) + len(continuation)))
        together = {context: Question(context=context, choices=tuple(tokens)) for context, tokens in choices.items()}
        questions = [
            together[tuple(context)]
            if len(continuation) == 1
            else Question(context=tuple(context), continuation=tuple(continuation))
            for _, context, continuation in requests
        ]
        results = []
        for (_, _, continuation), question, answer in zip(requests, questions, self._asker.ask(questions), strict=True):
            place = question.choices.index(continuation[0]) if question.choices else 0
            results.append((answer.logprobs[place], answer.greedy[place]))
        return results

    def _refuse_over_long(self, requests: Sequence[TokenRequest]) -> None:
        over = [len(before) + len(after) for _, before, after in requests if len(before) + len(after) > self.max_length]
        if over:
            raise AccuracyError(
                f"{len(over)} of {len(requests)} continuations are longer than the context of {self.max_length} tokens "
                f"(the longest has {max(over)}), and none is truncated: use fewer examples (accuracy.num_fewshot=…)"
            )

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the log-probability of each complete text, in windows of the model's length."""
        pieces: list[TokenRequest] = []
        owners: list[int] = []
        for owner, (text,) in enumerate(request.args for request in requests):
            windows = get_rolling_token_windows(self.tok_encode(text), self.prefix_token_id, self.max_length - 1, 1)
            for window in windows:
                pieces.append(((text, ""), *make_disjoint_window(window)))
                owners.append(owner)
        totals = [0.0] * len(requests)
        for owner, (logprob, _) in zip(owners, self._loglikelihood_tokens(pieces), strict=True):
            totals[owner] += logprob
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return the generated text of each request, without reasoning and anything after a stop text."""
        pairs = [(context, normalize_gen_kwargs(settings)) for context, settings in (r.args for r in requests)]
        ids = self._encode([context for context, _ in pairs])
        questions: list[Question] = []
        places: list[int] = []
        texts = [""] * len(pairs)
        n_sampled = Counter[str]()
        for place, (context, settings) in enumerate(pairs):
            room = self.max_length - len(ids[context])
            if room < 1:
                self.notes[context] = PromptNote(len(ids[context]), "over_long")
                continue
            sampling = self._sampling(settings, room)
            question = Question(context=tuple(ids[context]), sampling=sampling, nth=n_sampled[context])
            questions.append(question.seeded(self._seed))
            n_sampled[context] += sampling.temperature > 0
            places.append(place)
        for place, answer in zip(places, self._asker.ask(questions), strict=True):
            context, settings = pairs[place]
            texts[place], problem = self.spoken(answer.text or "", settings["until"], cut=answer.cut)
            other = self.notes.get(context)  # the note of another sampled answer to the same prompt
            self.notes[context] = PromptNote(len(ids[context]), problem or (other.problem if other else None))
        return texts

    def _sampling(self, settings: dict[str, Any], room: int) -> Sampling:
        """Return the sampling parameters. With reasoning, stop texts would end it too, so they are applied later."""
        stops = [stop for stop in settings["until"] if stop]
        few = self._asker.max_stops is None or len(stops) <= self._asker.max_stops
        return Sampling(
            max_new_tokens=min(room, self._max_gen_toks or settings["max_gen_toks"]),
            stop=tuple(stops) if few and not self._thinking else (),
            **self._mode_of(settings),
        )

    def _mode_of(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Return temperature and limits of the sampling: the run's, or else the task's."""
        if self._mode is not None:
            return self._mode.model_dump()
        return {name: settings[name] for name in ("temperature", "top_p", "top_k", "min_p") if name in settings}

    def spoken(self, text: str, until: Sequence[str], *, cut: bool) -> tuple[str, Problem | None]:
        """Return the answer in a generated text, and its problem, if any."""
        if self._thinking and cut and REASONING_END not in text:
            return "", "unfinished"
        marker = REASONING_END if self.reasons else None
        answer: str = postprocess_generated_text(text, list(until), marker)
        if not answer.strip():
            return answer, "empty"
        return answer, "truncated" if cut else None
