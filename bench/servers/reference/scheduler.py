"""The model thread: continuous batching of requests, first come, first served.

Each step first prefills the waiting requests that fit, short ones together in one forward pass and long ones in chunks,
after the prefix that the cache already has. Then all running requests decode one token together, and finished ones
leave the batch. Only this thread touches the model, the sequences and the cache; the event loop receives
:class:`Progress` events.
"""

import asyncio
import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch

from bench.servers.reference import sampling
from bench.servers.reference.kv import MIN_GROWTH, SequenceKV
from bench.servers.reference.model import Model
from bench.servers.reference.prefix import PrefixCache, Tokens, common
from bench.servers.reference.protocol import Prompt
from bench.servers.reference.sampling import Entry
from bench.servers.reference.text import TextStream, first_stop

SCORING_CHUNK = 256
"""Prompt positions per chunk where each needs the full vocabulary's logits: 150 MB in float32 for 151,936 tokens."""

WORTH_WAITING = 64
"""Fewest shared prompt positions for which a request waits until another request has computed them. Chosen: with fewer,
waiting for that step may take longer than computing them twice."""

CANCELLED = "cancelled: the client is gone"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """What a job has produced so far; the job's lists hold at least this much."""

    n_output: int
    text: str
    finish_reason: dict[str, Any] | None = None
    """None until the last event."""
    error: str | None = None
    """Set on the last event if the job failed."""

    @property
    def is_last(self) -> bool:
        """Whether nothing follows."""
        return self.finish_reason is not None or self.error is not None


@dataclass(frozen=True)
class Logprobs:
    """Log-probabilities of consecutive positions in SGLang's format; ``top`` and ``ids`` are empty unless requested."""

    tokens: list[Entry] = field(default_factory=list)
    top: list[list[Entry] | None] = field(default_factory=list)
    ids: list[list[Entry] | None] = field(default_factory=list)

    def begin(self, prompt: Prompt) -> None:
        """Add the entry of the first scored prompt position, which no computed logits predict."""
        self.tokens.append((None, prompt.tokens[prompt.logprob_start or 0], None))
        self.top.extend([None] * bool(prompt.top_logprobs))
        self.ids.extend([None] * bool(prompt.token_ids))

    def extend(self, logits: torch.Tensor, tokens: Sequence[int], prompt: Prompt) -> None:
        """Add the entries of ``tokens``, predicted by ``logits`` (tokens, vocabulary)."""
        logprobs = logits.log_softmax(-1)
        self.tokens.extend(sampling.entries(logprobs, tokens))
        if prompt.top_logprobs:
            self.top.extend(sampling.top_entries(logprobs, prompt.top_logprobs))
        if prompt.token_ids:
            self.ids.extend(sampling.entries_of_each(logprobs, prompt.token_ids))


@dataclass(eq=False)
class GenerationJob:
    """One prompt in the model thread. Its lists only grow."""

    prompt: Prompt
    streams: bool
    """Whether progress is reported before the end."""
    reuse: bool
    """Whether the prefix cache may serve the prompt and keep the sequence."""
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    received_s: float = field(default_factory=time.perf_counter)
    events: asyncio.Queue[Progress] = field(default_factory=asyncio.Queue)
    cancelled: bool = False
    """Set by the event loop when no client waits any more."""

    @cached_property
    def tokens(self) -> Tokens:
        """The prompt in the form that the prefix cache compares."""
        return np.asarray(self.prompt.tokens, dtype=np.int64)

    @property
    def wanted(self) -> int:
        """First prompt position whose logits are needed."""
        start = self.prompt.logprob_start
        return len(self.prompt.tokens) - 1 if start is None else start

    @property
    def reusable(self) -> int:
        """Most leading positions that the prefix cache may serve."""
        return min(len(self.prompt.tokens) - 1, self.wanted) if self.reuse else 0

    cached_tokens: int = 0
    output_ids: list[int] = field(default_factory=list)
    input_logprobs: Logprobs = field(default_factory=Logprobs)
    output_logprobs: Logprobs = field(default_factory=Logprobs)
    finished_s: float = 0.0


@dataclass(eq=False)
class _Running:
    """A job and its state in the model thread."""

    job: GenerationJob
    kv: SequenceKV
    generator: torch.Generator
    text: TextStream | None


class Scheduler:
    """Runs jobs on a model. Its public methods must be called from the event loop that created it."""

    def __init__(self, model: Model, *, max_running: int, max_chunk: int, max_total: int, cache_tokens: int) -> None:
        """Start the model thread.

        Args:
            model: loaded model; from now on only this thread uses it.
            max_running: most sequences that decode together.
            max_chunk: most prompt positions of one forward pass.
            max_total: most positions of all running sequences; no job may need more.
            cache_tokens: most positions in the prefix cache.
        """
        self._model = model
        self._max_running, self._max_chunk, self._max_total = max_running, max_chunk, max_total
        self._loop = asyncio.get_running_loop()
        self._in_flight = 0
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._waiting: deque[GenerationJob] = deque()
        self._running: list[_Running] = []
        self._prefix = PrefixCache(cache_tokens)
        threading.Thread(target=self._run, name="model", daemon=True).start()

    @property
    def in_flight(self) -> int:
        """Number of jobs that run or wait."""
        return self._in_flight

    def submit(self, prompt: Prompt, *, streams: bool, reuse: bool) -> GenerationJob:
        """Queue a prompt; the job's events end with one that ``is_last``."""
        job = GenerationJob(prompt, streams, reuse)
        self._in_flight += 1
        self._inbox.put(lambda: self._waiting.append(job))
        return job

    async def flush(self) -> None:
        """Empty the prefix cache; the caller must make sure that nothing is in flight."""
        done = asyncio.Event()

        def clear() -> None:
            self._prefix.clear()
            self._loop.call_soon_threadsafe(done.set)

        self._inbox.put(clear)
        await done.wait()

    def _deliver(self, job: GenerationJob, progress: Progress) -> None:
        """Deliver an event; runs on the event loop."""
        self._in_flight -= progress.is_last
        job.events.put_nowait(progress)

    # The methods below run in the model thread.

    def _run(self) -> None:
        while True:
            while not (self._inbox.empty() and (self._waiting or self._running)):
                self._inbox.get()()
            while group := self._next_group():
                self._start(group)
            self._decode()

    def _next_group(self) -> list[GenerationJob]:
        """Take waiting jobs, first come, first served, whose prompts one forward pass can compute together.

        A job keeps waiting while another one is about to compute more of its prefix than the cache has. Empty if none
        fits in addition to the running jobs.
        """
        group: list[GenerationJob] = []
        room = self._max_total - sum(running.job.prompt.n_positions for running in self._running)
        slots = self._max_running - len(self._running)
        tokens = n_logits = 0
        for job in list(self._waiting):
            room -= job.prompt.n_positions
            if room < 0 or len(group) == slots:
                break
            known = self._prefix.known(job.tokens, job.reusable)
            coming = max((min(common(job.tokens, other.tokens), job.reusable) for other in group), default=0)
            if coming - known >= WORTH_WAITING:
                continue
            tokens += len(job.tokens) - known
            n_logits += len(job.tokens) - max(known, job.wanted)
            if group and (tokens > self._max_chunk or n_logits > SCORING_CHUNK):
                break
            group.append(job)
            self._waiting.remove(job)
        return group

    def _start(self, group: Sequence[GenerationJob]) -> None:
        """Prefill jobs; afterwards they are running or already finished."""
        with self._failing(group):
            begun = [(job, self._known_beginning(job)) for job in group if not self._is_cancelled(job)]
            if not begun or (len(begun) == 1 and not self._prefill_in_chunks(*begun[0])):
                return
            rest = [len(job.prompt.tokens) - kv.length for job, kv in begun]
            for (job, kv), logits in zip(begun, self._forward(begun, rest), strict=True):
                with self._failing([job]):
                    self._score(job, kv.length, logits)
                    self._begin(job, kv, logits[-1])

    def _is_cancelled(self, job: GenerationJob) -> bool:
        """Return whether a job was cancelled, and end it if so."""
        if job.cancelled:
            self._end(job, Progress(0, "", error=CANCELLED))
        return job.cancelled

    def _known_beginning(self, job: GenerationJob) -> SequenceKV:
        """Return the cached prefix of a prompt, without the positions whose logits are needed."""
        prompt = job.prompt
        reserve = len(prompt.tokens) + min(prompt.params.max_new_tokens, MIN_GROWTH)
        kv = self._prefix.longest(job.tokens, job.reusable, reserve)
        job.cached_tokens = kv.length
        if prompt.logprob_start is not None:
            job.input_logprobs.begin(prompt)
        return kv

    def _prefill_in_chunks(self, job: GenerationJob, kv: SequenceKV) -> bool:
        """Compute a prompt until the rest fits in one pass; return False if it was cancelled."""
        chunk = self._max_chunk if job.prompt.logprob_start is None else min(self._max_chunk, SCORING_CHUNK)
        while len(job.prompt.tokens) - kv.length > chunk:
            (logits,) = self._forward([(job, kv)], [chunk])
            self._score(job, kv.length, logits)
            if self._is_cancelled(job):
                return False
        return True

    def _forward(
        self, begun: Sequence[tuple[GenerationJob, SequenceKV]], new: Sequence[int]
    ) -> tuple[torch.Tensor, ...]:
        """Compute the next ``new`` positions of each prompt; return as many of the last logits as are needed."""
        pieces, keep = [], []
        for (job, kv), n in zip(begun, new, strict=True):
            pieces.append(job.prompt.tokens[kv.length : kv.length + n])
            keep.append(max(1, kv.length + n - max(kv.length, job.wanted)))
        return self._model.forward(pieces, [kv for _, kv in begun], keep)

    def _score(self, job: GenerationJob, end: int, logits: torch.Tensor) -> None:
        """Add the log-probabilities of the prompt tokens that ``logits`` predict, which end at position ``end``."""
        following = job.prompt.tokens[max(end - len(logits), job.wanted) + 1 : end + 1]
        if following:
            job.input_logprobs.extend(sampling.finite(logits[: len(following)]), following, job.prompt)

    def _begin(self, job: GenerationJob, kv: SequenceKV, logits: torch.Tensor) -> None:
        """Produce the first token of a job whose prompt is computed, unless it asks for none."""
        tokenizer, params = self._model.tokenizer, job.prompt.params
        text = TextStream(tokenizer, params.skip_special_tokens) if tokenizer else None
        running = _Running(job, kv, sampling.generator_for(params, self._model.device), text)
        if params.max_new_tokens == 0:
            self._finish(running, {"type": "length", "length": 0})
        elif self._accept(running, logits):
            self._running.append(running)

    def _decode(self) -> None:
        """Let all running jobs produce one token together."""
        batch = [running for running in self._running if not self._is_cancelled(running.job)]
        self._running = []
        if not batch:
            return
        with self._failing([running.job for running in batch]):
            last_tokens = [[running.job.output_ids[-1]] for running in batch]
            logits = self._model.forward(last_tokens, [running.kv for running in batch], [1] * len(batch))
            self._running = [
                running for running, row in zip(batch, logits, strict=True) if self._continues(running, row[0])
            ]

    def _continues(self, running: _Running, logits: torch.Tensor) -> bool:
        """Give a running job its next token; False if that was its last, or if this job failed."""
        with self._failing([running.job]):
            return self._accept(running, logits)
        return False

    def _accept(self, running: _Running, logits: torch.Tensor) -> bool:
        """Choose the next token from ``logits`` (vocabulary,), report it, and return whether the job continues."""
        job, prompt = running.job, running.job.prompt
        token = sampling.choose(sampling.finite(logits), prompt.params, running.generator)
        if prompt.logprobs:
            job.output_logprobs.extend(logits[None], (token,), prompt)
        job.output_ids.append(token)
        reason = self._finish_reason(running, token)
        if reason is not None:
            self._finish(running, reason)
        elif job.streams:
            self._post(job, Progress(len(job.output_ids), running.text.text if running.text else ""))
        return reason is None

    def _finish_reason(self, running: _Running, token: int) -> dict[str, Any] | None:
        """Return why the job ends with ``token``, in SGLang's order of precedence, or None if it continues."""
        job, params = running.job, running.job.prompt.params
        added = running.text.push(token) if running.text and (job.streams or params.stop) else ""
        if len(job.output_ids) >= params.max_new_tokens:
            return {"type": "length", "length": len(job.output_ids)}
        if not params.ignore_eos and (token in self._model.eos_ids or token in params.stop_token_ids):
            return {"type": "stop", "matched": token}
        if running.text and added:
            matched = first_stop(running.text.text, len(added), params.stop)
            return None if matched is None else {"type": "stop", "matched": matched}
        return None

    def _finish(self, running: _Running, reason: dict[str, Any]) -> None:
        """Report the end of a job and hand its keys and values to the prefix cache."""
        job, kv = running.job, running.kv
        matched = reason.get("matched")
        spoken = job.output_ids[:-1] if isinstance(matched, int) else job.output_ids
        text = running.text.whole(spoken, matched if isinstance(matched, str) else None) if running.text else ""
        if job.reuse:
            self._prefix.insert([*job.prompt.tokens, *job.output_ids][: kv.length], kv)
        self._end(job, Progress(len(job.output_ids), text, finish_reason=reason))

    def _end(self, job: GenerationJob, progress: Progress) -> None:
        job.finished_s = time.perf_counter()
        self._post(job, progress)

    def _post(self, job: GenerationJob, progress: Progress) -> None:
        self._loop.call_soon_threadsafe(self._deliver, job, progress)

    @contextmanager
    def _failing(self, jobs: Sequence[GenerationJob]) -> Iterator[None]:
        """Let an error inside the block fail ``jobs`` only."""
        try:
            yield
        except Exception as error:
            log.exception("%d request(s) failed", len(jobs))
            # Memory may have run out, and the cache is memory that can be freed.
            self._prefix.clear()
            for job in jobs:
                self._end(job, Progress(0, "", error=f"{type(error).__name__}: {error}"))
