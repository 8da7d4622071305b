"""SGLang 0.5.23 in an environment of its own, with the flags of Qwen's published setting as defaults.

A pre-quantized checkpoint tells its format itself, so ``--quantization`` is never passed. The API key reaches the
server through its environment (:mod:`bench.toolchains.sglang_launch`), for command lines can be read by everybody.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from bench.engines import Launch
from bench.errors import EngineError
from bench.records.engine_info import EngineInfo
from bench.records.record import ServerFacts, Yarn
from bench.toolchains import toolchain
from quantize.checkpoint import Manifest
from quantize.formats import Format
from quantize.key import Frozen

SCORES = True
LAUNCHER = Path(__file__).resolve().parent.parent / "toolchains" / "sglang_launch.py"
KEY_VARIABLE = "QUANTBENCH_API_KEY"
GIB = 2**30
OWN_POSITIONS = 8
"""SGLang takes prompts and answers of up to six positions less than its context; a model's whole context must fit."""
CPU_TOKENS = 16384
"""Keys and values that a server on a CPU holds, where ``max_total_tokens`` says nothing."""


class Config(Frozen):
    """Fields of ``engine=sglang``; configs/engine/sglang.yaml explains them."""

    toolchain: str
    device: Literal["auto", "cuda", "cpu"]
    dtype: Literal["auto", "bfloat16", "float16", "float32"]
    kv_cache_dtype: Literal["auto", "fp8_e4m3", "fp8_e5m2", "bf16", "nvfp4"]
    mem_fraction_static: Annotated[float, Field(gt=0, lt=1)]
    context_length: PositiveInt | None
    max_total_tokens: PositiveInt | None
    max_running_requests: PositiveInt | None
    chunked_prefill_size: int | None
    mixed_chunk: bool
    tp_size: PositiveInt
    dp_size: PositiveInt
    pp_size: PositiveInt
    ep_size: PositiveInt
    nnodes: PositiveInt
    node_rank: NonNegativeInt
    dist_init_addr: str | None
    attention_backend: str | None
    deterministic: bool
    random_seed: int
    skip_tokenizer_init: bool
    incremental_streaming: bool
    metrics: bool
    extra_args: tuple[str, ...]
    startup_timeout_s: PositiveFloat
    request_timeout_s: PositiveFloat
    first_token_timeout_s: PositiveFloat
    stall_timeout_s: PositiveFloat

    @model_validator(mode="after")
    def _nodes(self) -> "Config":
        if self.node_rank >= self.nnodes:
            raise ValueError(f"node_rank counts from 0 and must be below nnodes, which is {self.nnodes}")
        if self.nnodes > 1 and self.dist_init_addr is None:
            raise ValueError("nnodes above 1 needs dist_init_addr=HOST:PORT, the first node's address")
        return self


def protocol(config: Config) -> str:
    """Return the protocol that the server speaks."""
    return "sglang"


def interpreter(config: Config, what: str) -> str | None:
    """Return the interpreter of the toolchain."""
    return toolchain.toolchain_interpreter(config.toolchain, what)


def address(config: Config) -> str | None:
    """Return None: the server is started here."""
    return None


def command(config: Config, interpreter: str, launch: Launch) -> list[str]:
    """Return the command that serves a checkpoint on 127.0.0.1."""
    context = config.context_length or launch.context_length + OWN_POSITIONS
    values = {
        "--model-path": launch.checkpoint,
        "--host": "127.0.0.1",
        "--port": launch.port,
        "--dtype": config.dtype,
        "--kv-cache-dtype": config.kv_cache_dtype,
        "--mem-fraction-static": f"{fraction(config, launch):.4g}",
        "--context-length": context,
        "--json-model-override-args": json.dumps(stretched(launch.yarn, context)) if launch.yarn else None,
        "--max-total-tokens": config.max_total_tokens,
        "--max-running-requests": config.max_running_requests,
        "--chunked-prefill-size": config.chunked_prefill_size,
        "--attention-backend": config.attention_backend,
        "--random-seed": config.random_seed,
        "--device": None if config.device == "auto" else config.device,
        **_parallel(config),
    }
    if config.device == "cpu":
        values["--attention-backend"] = config.attention_backend or "torch_native"
        values["--max-total-tokens"] = config.max_total_tokens or CPU_TOKENS
    switches = {
        "--enable-mixed-chunk": config.mixed_chunk,
        "--enable-deterministic-inference": config.deterministic,
        "--skip-tokenizer-init": config.skip_tokenizer_init,
        "--incremental-streaming-output": config.incremental_streaming,
        "--enable-metrics": config.metrics,
        "--disable-overlap-schedule": config.device == "cpu",
    }
    argv = [interpreter, "-P", str(LAUNCHER)]
    argv += [word for flag, value in values.items() if value is not None for word in (flag, str(value))]
    return [*argv, *(flag for flag, on in switches.items() if on), *config.extra_args]


def fraction(config: Config, launch: Launch) -> float:
    """Return the part of the memory free at its start that the server may take: that is what SGLang divides."""
    own = config.mem_fraction_static * launch.share
    return own / (1 - launch.beside * own)


def _parallel(config: Config) -> dict[str, Any]:
    """Return the flags that spread the model, those of one device left out."""
    sizes = {"--tp-size": config.tp_size, "--dp-size": config.dp_size, "--pp-size": config.pp_size}
    flags: dict[str, Any] = {flag: size for flag, size in {**sizes, "--ep-size": config.ep_size}.items() if size > 1}
    if config.nnodes > 1:
        flags |= {"--nnodes": config.nnodes, "--node-rank": config.node_rank, "--dist-init-addr": config.dist_init_addr}
    return flags


def stretched(yarn: Yarn, context_length: int) -> dict[str, Any]:
    """Return the fields of a model's config that stretch its context by YaRN.

    SGLang takes the longest context from ``max_position_embeddings`` alone once ``rope_scaling`` names the original
    one, so both are set (``get_context_length`` in its utils/hf_transformers/common.py).

    Args:
        yarn: how far to stretch what.
        context_length: longest prompt plus answer, tokens; the published setting asks for more than factor × original.
    """
    scaling = {"rope_type": "yarn", "factor": yarn.factor, "original_max_position_embeddings": yarn.original}
    longest = max(context_length, yarn.length)
    return {"rope_scaling": scaling, "max_position_embeddings": longest}


def environment(config: Config, api_key: str) -> dict[str, str]:
    """Return the server's own variables: it asks no hub and sees no packages but its own; the key stands here alone."""
    return {
        KEY_VARIABLE: api_key,
        "HF_HUB_OFFLINE": "1",
        # For OWN_POSITIONS; no prompt and answer together are longer than the model's context.
        "SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": "",
        "PYTHONUNBUFFERED": "1",
        **toolchain.variables(config.toolchain),
        **({"OMP_NUM_THREADS": threads} if (threads := os.environ.get("OMP_NUM_THREADS")) else {}),
    }


def context(config: Config, context_length: int) -> int:
    """Return the longest prompt plus answer, tokens: the field's, else the model's."""
    return config.context_length or context_length


def versions(config: Config) -> dict[str, str]:
    """Return the versions of the packages that it computes with."""
    return toolchain.pinned_versions(config.toolchain)


def room(config: Config) -> tuple[int, float]:
    """Return (devices that a server takes, the part of their memory that it may plan with)."""
    return config.tp_size * config.pp_size * config.dp_size, config.mem_fraction_static


def facts(
    config: Config, ask: Callable[[str], tuple[int, bytes]], log: Callable[[], str]
) -> tuple[EngineInfo, ServerFacts]:
    """Return what the server tells of itself.

    Raises:
        EngineError: it does not tell.
    """
    told = {}
    for path in ("/server_info", "/model_info"):
        status, body = ask(path)
        if status != 200:
            raise EngineError(f"the server does not answer {path} (HTTP {status})")
        told[path] = json.loads(body)
    server = told["/server_info"]
    states = server.get("internal_states") or [{}]
    state = states[0]
    memory = state.get("memory_usage", {})
    info = EngineInfo.of({**told["/model_info"], **state, **server})
    return info, ServerFacts(
        version=server.get("version"),
        kv_capacity_tokens=_times(server.get("max_total_num_tokens"), config.dp_size),
        # Prompts of max_req_input_len are refused; near it answers are cut short without a word: stay below.
        max_context_tokens=server.get("max_req_input_len"),
        weights_bytes=weights_bytes(config, server.get("device"), memory),
        kv_cache_dtype=config.kv_cache_dtype,
        devices=1 if server.get("device") == "cpu" else config.tp_size * config.pp_size,
        replicas=config.dp_size,
        max_running=_times(state.get("effective_max_running_requests_per_dp"), config.dp_size),
    )


def _times(value: int | None, factor: int) -> int | None:
    return None if value is None else value * factor


def weights_bytes(config: Config, device: str | None, memory: dict[str, Any]) -> int | None:
    """Return the memory of one copy's weights over all its devices.

    SGLang tells how much less memory its first rank's device had after loading, in GiB; ranks are taken to be alike.
    On a CPU that is the whole machine's memory, which says nothing: None.

    Args:
        config: the engine's.
        device: where the server says it runs.
        memory: ``memory_usage`` of its first replica, as ``/server_info`` tells it.
    """
    told = memory.get("weight")
    if device == "cpu" or told is None:
        return None
    return int(told * GIB * config.tp_size * config.pp_size)


def expanded(facts: ServerFacts, manifest: Manifest, bf16_bytes: int) -> str | None:
    """Return that a quantized checkpoint was expanded to 16 bits, as far as the memory of its weights tells.

    Args:
        facts: what the server told.
        manifest: of the checkpoint.
        bf16_bytes: size of the same model in 16 bits.

    Returns:
        The reason in words; None where nothing is quantized, nothing was told, or all is well.
    """
    if manifest.quantization_config is None or facts.weights_bytes is None:
        return None
    stored = sum(file.bytes for name, file in manifest.files.items() if name.endswith(".safetensors"))
    if abs(facts.weights_bytes - stored) <= abs(facts.weights_bytes - bf16_bytes):
        return None
    return (
        f"its weights take {facts.weights_bytes / 1e9:.2f} GB of memory, nearer to the {bf16_bytes / 1e9:.2f} GB of 16 "
        f"bits than to the {stored / 1e9:.2f} GB of the checkpoint: the server seems to have expanded them"
    )


def refuses(config: Config, form: Format | None) -> str | None:
    """Return why it cannot serve a format, known before any time is spent; None if it can, or if nobody knows.

    Args:
        config: the engine's.
        form: how the checkpoint stores its quantized layers; None if nothing is quantized.
    """
    if config.device == "cpu" and form is not None:
        return "SGLang 0.5.23 on a CPU loads no quantized checkpoint: it asks CUDA for a compute capability"
    return None


def emulates(config: Config, manifest: Manifest) -> bool:
    """Tell whether it computes on other kernels than those of what is quantized; see `expanded` for what was seen."""
    return False
