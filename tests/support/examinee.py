"""A server that answers accuracy questions by a known rule, except where a test plans a wrong answer.

An answer depends only on the question, not on repeats, order or the number of servers. ``with answering() as
server`` runs one in a thread; ``python -m tests.support.examinee PORT PLAN`` runs one as an engine's server process.
PLAN is a JSON file, see `Plan`. The process counts its starts in ``PLAN.starts``, one character each, and logs each
request in ``PLAN.log``: ``asked`` or ``answered``, and the question.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

Body = dict[str, Any]


def drawn(*parts: Any) -> float:
    """Return a number from 0 to 1 that depends only on ``parts``."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:6]) / 2**48


def logprob(context: list[int], token: int) -> float:
    """Return the log-probability of ``token`` after ``context``."""
    return round(-0.1 - 5 * drawn(context, token), 4)


def is_greedy(context: list[int], token: int) -> bool:
    """Whether ``token`` is the most likely one after ``context``."""
    return drawn("greedy", context, token) < 0.7


def answer(body: Body) -> Body:
    """Return the correct answer to a question, in the form of SGLang's native API."""
    ids, params = body["input_ids"], body["sampling_params"]
    meta: Body = {"prompt_tokens": len(ids), "cached_tokens": len(ids) // 2, "finish_reason": {"type": "stop"}}
    if "token_ids_logprob" in body:
        entries = [[logprob(ids, token), token, None] for token in body["token_ids_logprob"]]
        best = max(entries)[1]
        return {"text": "", "output_ids": [best], "meta_info": {**meta, "output_token_ids_logprobs": [entries]}}
    if body.get("return_logprob"):
        start = body["logprob_start_len"]
        entries = [[None, ids[start], None]]
        tops: list[Any] = [None]
        for place in range(start + 1, len(ids)):
            value = logprob(ids[:place], ids[place])
            entries.append([value, ids[place], None])
            tops.append([[value, ids[place] if is_greedy(ids[:place], ids[place]) else ids[place] + 1, None]])
        return {"text": "", "meta_info": {**meta, "input_token_logprobs": entries, "input_top_logprobs": tops}}
    drawn_at_random = os.urandom(4).hex() if params["temperature"] else ""
    text = f"answer {drawn(ids):.6f}{drawn_at_random}"
    return {"text": text, "meta_info": {**meta, "completion_tokens": 3}}


def question(body: Body) -> str:
    """Return a name that identifies a question."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:12]


Wrong = Callable[[int, Body], web.StreamResponse | Body | None]
"""(number of the request, from 1; its body) → a wrong answer; None for the correct one."""


class Examinee:
    """The server: the requests that it received, and its answers."""

    def __init__(self, wrong: Wrong | None = None) -> None:
        self.bodies: list[Body] = []
        self.headers: list[Mapping[str, str]] = []
        self.under_way = self.most_under_way = 0
        self.wrong = wrong
        self.delay_s = 0.0
        self.url = ""
        self.log: Callable[[str, Body], None] = lambda what, body: None

    @property
    def questions(self) -> list[str]:
        """The questions of all requests, in order."""
        return [question(body) for body in self.bodies]

    async def generate(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        number = len(self.bodies)
        self.headers.append(request.headers)
        self.log("asked", body)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        await asyncio.sleep(self.delay_s)
        self.under_way -= 1
        fault = self.wrong(number, body) if self.wrong else None
        if isinstance(fault, web.StreamResponse):
            return fault
        self.log("answered", body)
        return web.Response(text=json.dumps(answer(body) if fault is None else fault), content_type="application/json")

    async def other(self, request: web.Request) -> web.Response:
        return web.json_response({"version": "answering"})

    async def start(self, port: int) -> None:
        """Listen on 127.0.0.1; port 0 takes a free one."""
        app = web.Application(client_max_size=2**28)
        app.router.add_post("/generate", self.generate)
        app.router.add_route("*", "/{path:.*}", self.other)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self._runner = runner
        self._stopping: asyncio.Task[None] | None = None

    async def stop(self) -> None:
        """Stop listening. A second call waits for the first."""
        self._stopping = self._stopping or asyncio.ensure_future(self._runner.cleanup())
        await asyncio.shield(self._stopping)


def error(status: int, text: str = "no memory") -> web.Response:
    """Return an answer that is an error."""
    return web.json_response({"error": {"message": text}}, status=status)


@contextlib.contextmanager
def answering(wrong: Wrong | None = None) -> Iterator[Examinee]:
    """Run a server in a thread inside a ``with`` block."""
    server = Examinee(wrong)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(server.start(0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@dataclass
class Plan:
    """The faults of a server that is a child process."""

    die_at: list[int] = field(default_factory=list)
    """For each start, the number of the request at which the server dies; 0 for none."""
    refuse: list[int] = field(default_factory=list)
    """Questions, numbered from 1 by first appearance, that are always answered with HTTP 500."""
    nan: list[int] = field(default_factory=list)
    """Questions, numbered in the same way, whose log-probabilities are NaN."""
    delay_s: float = 0.0
    """Time for each answer, s."""

    def write(self, file: Path) -> Path:
        """Write the plan to a file, and delete the log and the starts of an earlier one."""
        file.write_text(json.dumps(asdict(self)))
        for other in (log_of(file), starts_of(file)):
            other.unlink(missing_ok=True)
        return file


def log_of(file: Path) -> Path:
    """Return the log file of a plan's server."""
    return file.with_suffix(".log")


def starts_of(file: Path) -> Path:
    """Return the file in which a plan's server counts its starts."""
    return file.with_suffix(".starts")


def logged(file: Path, what: str) -> list[str]:
    """Return the questions that a plan's servers were ``asked`` or have ``answered``."""
    lines = log_of(file).read_text().splitlines() if log_of(file).exists() else []
    return [line.split()[1] for line in lines if line.split()[0] == what]


def planned(plan: Plan, start: int) -> Wrong:
    """Return the faults of a plan at the ``start``-th start, counted from 0."""
    seen: dict[str, int] = {}
    die_at = plan.die_at[start] if start < len(plan.die_at) else 0

    def wrong(number: int, body: Body) -> web.StreamResponse | Body | None:
        if number == die_at:
            os._exit(9)
        place = seen.setdefault(question(body), len(seen) + 1)
        if place in plan.refuse:
            return error(500)
        if place in plan.nan:
            return poisoned(body)
        return None

    return wrong


def poisoned(body: Body, value: Any = float("nan")) -> Body:
    """Return the answer to a question about choices, with ``value`` as the first one's log-probability."""
    wrong = answer(body)
    wrong["meta_info"]["output_token_ids_logprobs"][0][0][0] = value
    return wrong


def main(port: int, file: Path) -> None:
    """Serve until standard input closes."""
    plan = Plan(**json.loads(file.read_text()))
    starts = len(starts_of(file).read_text()) if starts_of(file).exists() else 0
    starts_of(file).write_text("x" * (starts + 1))
    log = log_of(file).open("a", buffering=1)
    server = Examinee(planned(plan, starts))
    server.delay_s = plan.delay_s
    server.log = lambda what, body: print(what, question(body), file=log)

    def end_with_parent() -> None:
        sys.stdin.read()
        os._exit(0)

    async def serve() -> None:
        await server.start(port)
        await asyncio.Event().wait()

    threading.Thread(target=end_with_parent, daemon=True).start()
    asyncio.run(serve())


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
