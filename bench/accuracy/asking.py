"""Ask a server many questions concurrently and store each answer on arrival; a failure never counts as an answer."""

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from bench.accuracy.journal import Journal
from bench.accuracy.protocols import dialect
from bench.accuracy.questions import Answer, Question, in_order, unique_tokens
from bench.accuracy.tasks import KEY_VARIABLE
from bench.errors import AccuracyError
from bench.records.record import Work

TRIES = 3
"""Attempts per question. Chosen: a connection may break once or twice, and the pauses of three attempts take 1.5 s."""
PAUSE_S = 0.5
"""Pause before the second attempt; twice as long before the third."""
GIVE_UP = 50
"""Consecutive failed questions after which the rest is expected to fail too. Chosen: items that fail by themselves
rarely come so close together."""


class ServerGoneError(AccuracyError):
    """Nothing listens at the server's address any more."""


class _FailedError(Exception):
    """A question was not answered; the text says why."""


@dataclass(frozen=True)
class Endpoint:
    """The server that is asked."""

    base_url: str
    """E.g. ``http://127.0.0.1:30000``."""
    protocol: str
    """A module of :mod:`bench.accuracy.protocols`."""
    model: str
    """Name of the served model; empty if the server needs none."""
    concurrency: int
    """Requests in flight at once."""
    timeout_s: float
    """Longest time to wait for an answer."""


class Asker:
    """Asks a server questions, ordered so that prompts with a common prefix follow each other."""

    def __init__(
        self,
        server: Endpoint,
        journal: Journal,
        *,
        backwards: bool = False,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """Ask ``server`` the questions that ``journal`` has no answer to.

        Args:
            server: the server to ask.
            journal: the answers so far; new ones are added.
            backwards: ask in reverse order, so that different questions are batched together.
            on_progress: called with (number of answered questions, number of all questions).
        """
        self._server = server
        self._dialect = dialect(server.protocol)
        self._journal = journal
        self._backwards = backwards
        self._on_progress = on_progress
        self._prompts: dict[str, tuple[int, ...]] = {}
        """Prompts of all questions so far, by digest."""
        self._retried = self._requests = self._resumed = 0
        self._seconds = 0.0

    @property
    def max_stops(self) -> int | None:
        """Most stop texts of one request."""
        return self._dialect.MAX_STOPS

    def ask(self, questions: Sequence[Question]) -> list[Answer]:
        """Return the answer to each question.

        Raises:
            ServerGoneError: the server has ended.
            AccuracyError: a question failed in every attempt, or an answer cannot be scored. Other answers are kept.
            StoreError: an answer cannot be written.
        """
        digests = [question.digest() for question in questions]
        self._prompts |= dict(zip(digests, (question.prompt for question in questions), strict=True))
        answered = {digest for digest in digests if digest in self._journal.answers}
        self._resumed += len(answered)
        places = [place for place in in_order(questions, backwards=self._backwards) if digests[place] not in answered]
        waiting = {digests[place]: questions[place] for place in places}
        total = len(answered) + len(waiting)
        begin = time.monotonic()
        failures = asyncio.run(self._ask_all(waiting, len(answered), total))
        self._seconds += time.monotonic() - begin
        if failures:
            raise AccuracyError(
                f"{len(failures)} of {total} questions were not answered, the first: {failures[0]}. "
                f"{total - len(failures)} answers are kept; rerun the same command to ask only the rest"
            )
        return [self._journal.answers[digest] for digest in digests]

    def work(self) -> Work:
        """Return the work done so far."""
        answers = [self._journal.answers[digest] for digest in self._prompts if digest in self._journal.answers]
        cached = [answer.cached_tokens for answer in answers if answer.cached_tokens is not None]
        output = [answer.output_tokens for answer in answers if answer.output_tokens is not None]
        return Work(
            requests=self._requests,
            prompt_tokens=sum(map(len, self._prompts.values())),
            unique_tokens=unique_tokens(self._prompts.values()),
            cached_tokens=sum(cached) if cached else None,
            output_tokens=sum(output) if output else None,
            duration_s=self._seconds,
            concurrency=self._server.concurrency,
            resumed=self._resumed,
            retried=self._retried,
        )

    async def _ask_all(self, waiting: dict[str, Question], done: int, total: int) -> list[str]:
        """Answer the questions in order; return the reasons of those that failed."""
        failures: list[str] = []
        in_a_row = 0
        remaining = iter(waiting.items())

        async def work(session: aiohttp.ClientSession) -> None:
            nonlocal done, in_a_row
            for digest, question in remaining:
                try:
                    answer = await self._answer(session, question)
                except _FailedError as error:
                    failures.append(str(error))
                    in_a_row += 1
                    if in_a_row >= GIVE_UP:
                        raise AccuracyError(
                            f"{in_a_row} consecutive questions were not answered, the last: {error}. "
                            f"{done} answers are kept"
                        ) from error
                    continue
                in_a_row = 0
                self._journal.add(digest, answer)
                done += 1
                self._on_progress(done, total)

        timeout = aiohttp.ClientTimeout(total=None, sock_read=self._server.timeout_s)
        key = os.environ.get(KEY_VARIABLE)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._on_progress(done, total)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(timeout=timeout, headers=headers, connector=connector) as session:
            await _gather_or_cancel([work(session) for _ in range(min(self._server.concurrency, len(waiting)))])
        return failures

    async def _answer(self, session: aiohttp.ClientSession, question: Question) -> Answer:
        """Ask one question.

        Raises:
            _FailedError: it failed in every attempt.
            ServerGoneError, AccuracyError: as in `ask`.
        """
        bodies = self._dialect.requests(question, self._server.model)
        try:
            answers = [await self._post(session, body) for body in bodies]
        except _FailedError as error:
            if refusal := self._dialect.refusal(question, str(error)):
                raise AccuracyError(refusal) from error
            raise
        self._requests += len(bodies)
        try:
            return self._dialect.read(question, answers)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise _FailedError(f"the answer cannot be read ({type(error).__name__}: {error})") from error

    async def _post(self, session: aiohttp.ClientSession, body: dict[str, Any]) -> dict[str, Any]:
        problem = ""
        for attempt in range(TRIES):
            if attempt:
                self._retried += 1
                await asyncio.sleep(PAUSE_S * 2 ** (attempt - 1))
            try:
                url = self._server.base_url + self._dialect.PATH
                async with session.post(url, json=body, allow_redirects=False) as response:
                    if response.status == 200:
                        answer: dict[str, Any] = await response.json()
                        return answer
                    problem = f"HTTP {response.status}: {(await response.text())[:300]}"
                    if 400 <= response.status < 500 and response.status not in (408, 429):
                        break
            except aiohttp.ClientConnectorError as error:
                raise ServerGoneError(f"nothing answers at {self._server.base_url} any more ({error})") from error
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                problem = f"{type(error).__name__}: {error}"
        raise _FailedError(f"{problem} (attempt {attempt + 1} of {TRIES})")


async def _gather_or_cancel(jobs: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run coroutines concurrently; at the first error cancel the others and raise that error itself."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
