"""The reference server: a transformers model behind SGLang's native HTTP API (:mod:`bench.servers.reference`)."""

import json
from collections.abc import Callable
from typing import Any, Literal

from pydantic import PositiveFloat, PositiveInt

from bench.engines import Launch
from bench.errors import EngineError
from bench.machine.threads import memory, waiting
from bench.records.engine_info import EngineInfo
from bench.records.record import ServerFacts
from bench.toolchains.toolchain import interpreter_for
from quantize.checkpoint import Manifest
from quantize.formats import Format
from quantize.key import Frozen

NEEDS = ("torch", "transformers", "compressed_tensors")
SCORES = True


class Config(Frozen):
    """Fields of ``engine=transformers``."""

    device: Literal["auto", "cpu", "cuda"]
    dtype: Literal["auto", "bfloat16", "float32"]
    kv_cache_dtype: Literal["auto", "fp8_e4m3"]
    max_running_requests: PositiveInt
    startup_timeout_s: PositiveFloat
    request_timeout_s: PositiveFloat
    first_token_timeout_s: PositiveFloat
    stall_timeout_s: PositiveFloat


def protocol(config: Config) -> str:
    """Return the protocol that the server speaks."""
    return "sglang"


def interpreter(config: Config, what: str) -> str | None:
    """Return the current interpreter, if it has what the server needs."""
    return interpreter_for(NEEDS, what)


def address(config: Config) -> str | None:
    """Return None: the server is started here."""
    return None


def command(config: Config, interpreter: str, launch: Launch) -> list[str]:
    """Return the command that serves a checkpoint on 127.0.0.1."""
    yarn = launch.yarn
    stretch = ["--yarn-factor", str(yarn.factor), "--yarn-original", str(yarn.original)] if yarn else []
    return [
        interpreter, "-m", "bench.servers.reference",
        "--model-path", str(launch.checkpoint),
        "--host", "127.0.0.1",
        "--port", str(launch.port),
        "--device", config.device,
        "--dtype", config.dtype,
        "--kv-cache-dtype", config.kv_cache_dtype,
        "--context-length", str(launch.context_length),
        "--max-running-requests", str(config.max_running_requests),
        "--exit-with-parent",
        *stretch,
    ]  # fmt: skip


def environment(config: Config, api_key: str) -> dict[str, str]:
    """Return the server's own variables: it never asks a hub, knows of no keys, and shares its cores."""
    return {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", **waiting(), **memory()}


def facts(
    config: Config, ask: Callable[[str], tuple[int, bytes]], log: Callable[[], str]
) -> tuple[EngineInfo, ServerFacts]:
    """Return what the server tells of itself.

    Raises:
        EngineError: it does not tell.
    """
    status, body = ask("/server_info")
    if status != 200:
        raise EngineError(f"the server does not answer /server_info (HTTP {status})")
    info: dict[str, Any] = json.loads(body)
    return EngineInfo.of(info), ServerFacts(
        version=info["version"],
        kv_capacity_tokens=info["max_total_num_tokens"],
        max_context_tokens=info["context_length"],
        weights_bytes=info.get("weights_bytes"),
        kv_cache_dtype=config.kv_cache_dtype,
        devices=1,
        max_running=info["max_running_requests"],
    )


def refuses(config: Config, form: Format | None) -> str | None:
    """Return None: every variant runs here, expanded where it is quantized."""
    return None


def emulates(config: Config, manifest: Manifest) -> bool:
    """Tell whether anything quantized is expanded back to 16 bits to be computed with: weights, or keys and values."""
    return manifest.quantization_config is not None or config.kv_cache_dtype != "auto"
