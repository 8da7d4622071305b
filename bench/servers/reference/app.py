"""The HTTP side: routes, answers and streams in the format of SGLang 0.5.23."""

import asyncio
import importlib.metadata
import json
import logging
from argparse import Namespace
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from aiohttp import web

from bench import __version__
from bench.servers.reference.model import LoadError, Model
from bench.servers.reference.protocol import (
    GenerateRequest,
    Limits,
    Prompt,
    RequestError,
    SamplingParams,
    parse,
    prompts,
)
from bench.servers.reference.scheduler import GenerationJob, Progress, Scheduler

MAX_BODY_BYTES = 2**28
"""Enough for a batch of many prompts of 131,072 token ids."""
FLUSHED = "Cache flushed.\n"
NOT_FLUSHED = "Cache not flushed: requests are running or waiting. Try again when they are done.\n"
HEALTH_PROMPT = Prompt(
    tokens=(0,),
    params=SamplingParams(max_new_tokens=1, temperature=0.0, ignore_eos=True),
    logprobs=False,
    logprob_start=None,
    top_logprobs=0,
    token_ids=(),
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A loaded model that can answer requests."""

    model: Model
    scheduler: Scheduler
    limits: Limits

    def submit(self, generation: GenerateRequest) -> tuple[GenerationJob, ...]:
        """Queue the prompts of a request.

        Raises:
            RequestError: one of them cannot be served; nothing is queued then.
        """
        tokenizer = self.model.tokenizer
        batch = prompts(generation, self.limits, tokenizer.encode if tokenizer else None)
        return tuple(self.scheduler.submit(prompt, streams=generation.stream, reuse=True) for prompt in batch)


class Server:
    """The routes. ``served`` is None until the model is loaded and has generated a token."""

    def __init__(self, args: Namespace) -> None:
        self.args = args
        self.served: LoadedModel | None = None

    def app(self) -> web.Application:
        """Return the web application."""
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_errors])
        app.add_routes(
            [
                web.get("/health", self._health),
                web.get("/health_generate", self._health_generate),
                web.get("/server_info", self._server_info),
                web.get("/model_info", self._model_info),
                web.get("/flush_cache", self._flush_cache),
                web.post("/flush_cache", self._flush_cache),
                web.post("/generate", self._generate),
            ]
        )
        return app

    async def load(self) -> None:
        """Load the model, generate a token, and answer from then on.

        Raises:
            LoadError: the model or the machine does not support the arguments.
            OSError, ValueError: the checkpoint cannot be loaded.
            RequestError: it cannot generate.
        """
        args = self.args
        if (args.yarn_factor is None) != (args.yarn_original is None):
            raise LoadError("--yarn-factor and --yarn-original need each other")
        model = await asyncio.to_thread(Model, Path(args.model_path), args.device, args.dtype, args.kv_cache_dtype)
        if args.yarn_factor is not None:
            model.stretch(args.yarn_factor, args.yarn_original)
        context_length = args.context_length or model.max_positions
        if context_length > model.max_positions:
            raise LoadError(f"--context-length {context_length}: the model has only {model.max_positions} positions")
        fits = model.kv_capacity() - args.cache_tokens
        limits = Limits(model.vocab_size, context_length, min(fits, args.max_running_requests * context_length))
        if limits.max_total_tokens < context_length:
            log.warning("only %d of %d positions fit in memory", limits.max_total_tokens, context_length)
        scheduler = Scheduler(
            model,
            max_running=args.max_running_requests,
            max_chunk=args.max_prefill_chunk,
            max_total=limits.max_total_tokens,
            cache_tokens=args.cache_tokens,
        )
        await _one_token(scheduler)
        self.served = LoadedModel(model, scheduler, limits)

    def _ready(self) -> LoadedModel:
        if self.served is None:
            raise RequestError("the model is still loading", status=503)
        return self.served

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response(status=503 if self.served is None else 200)

    async def _health_generate(self, request: web.Request) -> web.Response:
        await _one_token(self._ready().scheduler)
        return web.Response()

    async def _server_info(self, request: web.Request) -> web.Response:
        served = self._ready()
        quantization = served.model.quantization
        return web.json_response(
            {
                **vars(self.args),
                "device": served.model.device.type,
                "dtype": served.model.dtype,
                "context_length": served.limits.context_length,
                "max_total_num_tokens": served.limits.max_total_tokens,
                "quantization": quantization and quantization.get("quant_method"),
                "emulated": quantization is not None,
                "engine": "quantbench-reference",
                "version": __version__,
                "num_threads": torch.get_num_threads(),
                "libraries": {
                    name: importlib.metadata.version(name) for name in ("torch", "transformers", "compressed-tensors")
                },
            }
        )

    async def _model_info(self, request: web.Request) -> web.Response:
        config = self._ready().model.config
        return web.json_response(
            {
                "model_path": self.args.model_path,
                "served_model_name": self.args.served_model_name,
                "tokenizer_path": self.args.model_path,
                "is_generation": True,
                "model_type": config.model_type,
                "architectures": config.architectures,
            }
        )

    async def _flush_cache(self, request: web.Request) -> web.Response:
        scheduler = self._ready().scheduler
        if scheduler.in_flight:
            return web.Response(status=400, text=NOT_FLUSHED)
        await scheduler.flush()
        return web.Response(text=FLUSHED)

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        served = self._ready()
        generation = parse(await request.read())
        if generation.stream:
            return await _stream(request, _events(served, generation))
        jobs = served.submit(generation)
        try:
            answers = [_answer(job, await _last(job)) for job in jobs]
        finally:
            _cancel(jobs)
        return web.json_response(answers if generation.is_batch else answers[0])


@web.middleware
async def _errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Answer errors as JSON, in SGLang's formats."""
    try:
        return await handler(request)
    except RequestError as error:
        return web.json_response(error.body(), status=error.status)
    except web.HTTPException as error:
        return web.json_response({"detail": error.reason}, status=error.status)


async def _one_token(scheduler: Scheduler) -> None:
    """Generate one token with the model, without touching the prefix cache.

    Raises:
        RequestError: it failed.
    """
    await _last(scheduler.submit(HEALTH_PROMPT, streams=False, reuse=False))


async def _last(job: GenerationJob) -> Progress:
    """Wait for a job's end.

    Raises:
        RequestError: it failed.
    """
    while not (progress := await job.events.get()).is_last:
        pass
    if progress.error is not None:
        raise RequestError(progress.error, status=500)
    return progress


def _cancel(jobs: Iterable[GenerationJob]) -> None:
    """Stop jobs that no client waits for; this has no effect on finished jobs."""
    for job in jobs:
        job.cancelled = True


async def _events(served: LoadedModel, generation: GenerateRequest) -> AsyncGenerator[dict[str, Any], None]:
    """Yield the JSON of each event of a streamed answer; errors are events too."""
    jobs: tuple[GenerationJob, ...] = ()
    try:
        jobs = served.submit(generation)
        while True:
            progress = await jobs[0].events.get()
            if progress.error is not None:
                raise RequestError(progress.error, status=500)
            yield _answer(jobs[0], progress)
            if progress.is_last:
                return
    except RequestError as error:
        yield error.event()
    finally:
        _cancel(jobs)


async def _stream(request: web.Request, events: AsyncGenerator[dict[str, Any], None]) -> web.StreamResponse:
    """Send server-sent events as they arrive."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    await response.prepare(request)
    async with aclosing(events):
        async for event in events:
            await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
    await response.write(b"data: [DONE]\n\n")
    await response.write_eof()
    return response


def _answer(job: GenerationJob, progress: Progress) -> dict[str, Any]:
    """Return the JSON of everything a job has produced up to ``progress``."""
    n = progress.n_output
    meta: dict[str, Any] = {
        "id": job.id,
        "finish_reason": progress.finish_reason,
        "prompt_tokens": len(job.prompt.tokens),
        "completion_tokens": n,
        "cached_tokens": job.cached_tokens,
    }
    if job.prompt.logprobs:
        meta |= {
            "input_token_logprobs": job.input_logprobs.tokens,
            "output_token_logprobs": job.output_logprobs.tokens[:n],
            "output_token_logprobs_length": n,
        }
        if job.prompt.top_logprobs:
            meta |= {"input_top_logprobs": job.input_logprobs.top, "output_top_logprobs": job.output_logprobs.top[:n]}
        if job.prompt.token_ids:
            meta |= {
                "input_token_ids_logprobs": job.input_logprobs.ids,
                "output_token_ids_logprobs": job.output_logprobs.ids[:n],
            }
    if progress.is_last:
        meta["e2e_latency"] = job.finished_s - job.received_s
    return {"text": progress.text, "output_ids": job.output_ids[:n], "meta_info": meta}
