"""SGLang 0.5.23 in an environment of its own, with the flags of Qwen's published setting as defaults.

A pre-quantized checkpoint declares its own format, so ``--quantization`` is never passed. The API key reaches the
server through its environment (:mod:`bench.toolchains.sglang_launch`), because every user can read command lines.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from bench.engines import Ask, Engine, EngineConfig, Launch, Log, Parallelism, ServedModel
from bench.errors import EngineError
from bench.machine.diagnose import Kind
from bench.records.engine_info import EngineInfo
from bench.records.record import ServerFacts, Yarn
from bench.toolchains import toolchain
from quantize.checkpoint import Manifest

LAUNCHER = Path(__file__).resolve().parent.parent / "toolchains" / "sglang_launch.py"
KEY_VARIABLE = "QUANTBENCH_API_KEY"
GIB = 2**30
OWN_POSITIONS = 8
"""Extra positions of the server's context. SGLang accepts prompts and answers only up to six positions short of its
context, and the model's full context must fit."""
CPU_TOKENS = 16384
"""Capacity of the KV cache on a CPU in tokens, where ``max_total_tokens`` is not set."""

LOG_PATTERNS: Mapping[Kind, str] = {
    "port taken": r"port\b.* is not available in \d+ seconds",
    "context too long": r"is greater than the derived context_length",
    "missing kernel": r"No module named '(?:sgl_kernel|flashinfer|deep_gemm|deep_ep)",
    "no room for keys": r"Not enough memory\. Please try to increase --mem-fraction-static",
    "out of memory": r"memory capacity is unbalanced",
    "watchdog": r"watchdog timeout",
}
ADVICE: Mapping[Kind, str] = {
    "no GPU": "no usable GPU: check nvidia-smi and CUDA_VISIBLE_DEVICES, or use engine=transformers",
    "sizes do not divide": "this many GPUs do not divide the model's heads or layers: change engine.tp_size",
    "no room for keys": "the weights leave too little memory for keys and values: raise "
    "engine.mem_fraction_static, lower model.context_length, or use more GPUs",
    "out of memory": "check with nvidia-smi whether another program uses the GPU; otherwise lower "
    "engine.mem_fraction_static, or use more GPUs",
    "crash on the GPU": "a kernel crashed: try another engine.attention_backend",
    "NCCL": "the GPUs cannot communicate with each other: NCCL_DEBUG=INFO shows why; check engine.dist_init_addr, and "
    "that every node is running",
    "watchdog": "the server stopped itself because one batch took too long: use shorter prompts, or a smaller "
    "engine.chunked_prefill_size",
}


class Config(EngineConfig):
    """Fields of ``engine=sglang``, by SGLang's own names; configs/engine/sglang.yaml explains them."""

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

    @model_validator(mode="after")
    def _nodes(self) -> "Config":
        if self.node_rank >= self.nnodes:
            raise ValueError(f"node_rank counts from 0 and must be below nnodes, which is {self.nnodes}")
        if self.nnodes > 1 and self.dist_init_addr is None:
            raise ValueError("nnodes above 1 needs dist_init_addr=HOST:PORT, the first node's address")
        return self


def fraction(config: Config, launch: Launch) -> float:
    """Return the share of the memory free at startup that the server may take, which is what SGLang's flag means."""
    own = config.mem_fraction_static * launch.share
    return own / (1 - launch.running_servers * own)


def _parallel(config: Config) -> dict[str, Any]:
    """Return the flags that split the model over devices, without those that equal 1."""
    sizes = {"--tp-size": config.tp_size, "--dp-size": config.dp_size, "--pp-size": config.pp_size}
    flags: dict[str, Any] = {flag: size for flag, size in {**sizes, "--ep-size": config.ep_size}.items() if size > 1}
    if config.nnodes > 1:
        flags |= {"--nnodes": config.nnodes, "--node-rank": config.node_rank, "--dist-init-addr": config.dist_init_addr}
    return flags


def yarn_fields(yarn: Yarn, context_length: int) -> dict[str, Any]:
    """Return the fields of a model's config that stretch its context by YaRN.

    SGLang reads the longest context from ``max_position_embeddings`` alone once ``rope_scaling`` names the original
    one, so both are set (``get_context_length`` in its utils/hf_transformers/common.py).

    Args:
        yarn: the factor and the original length.
        context_length: longest prompt plus answer, tokens; the published setting has more than factor × original.
    """
    scaling = {"rope_type": "yarn", "factor": yarn.factor, "original_max_position_embeddings": yarn.original}
    longest = max(context_length, yarn.length)
    return {"rope_scaling": scaling, "max_position_embeddings": longest}


def _times(value: int | None, factor: int) -> int | None:
    return None if value is None else value * factor


def weights_bytes(config: Config, device: str | None, memory: dict[str, Any]) -> int | None:
    """Return the memory of one copy's weights over all its devices.

    SGLang reports how much less memory its first rank's device had after loading, in GiB; all ranks are assumed to be
    equal. On a CPU that is the machine's total memory, which says nothing: None.

    Args:
        config: the engine's config.
        device: device that the server reports.
        memory: ``memory_usage`` of its first replica, as ``/server_info`` reports it.
    """
    used_gib = memory.get("weight")
    if device == "cpu" or used_gib is None:
        return None
    return int(used_gib * GIB * config.tp_size * config.pp_size)


class SGLang(Engine):
    """SGLang, in its own toolchain."""

    config: Config

    splits: ClassVar[bool] = True
    parallel_fields: ClassVar[tuple[str, ...]] = ("tp_size", "pp_size")
    published_source: ClassVar[str | None] = "qwen3-speed"
    log_patterns: ClassVar[Mapping[Kind, str]] = LOG_PATTERNS
    advice: ClassVar[Mapping[Kind, str]] = ADVICE

    @property
    def protocol(self) -> str:
        """SGLang's native API."""
        return "sglang"

    @property
    def toolchain(self) -> str:
        """Toolchain that the server runs in."""
        return self.config.toolchain

    def code_files(self) -> Sequence[Path]:
        """Return this module and the launcher."""
        return [*super().code_files(), LAUNCHER]

    @property
    def device(self) -> Literal["auto", "cuda", "cpu"]:
        """Requested device."""
        return self.config.device

    @property
    def dtype(self) -> str:
        """Configured compute type."""
        return self.config.dtype

    @property
    def kv_cache_dtype(self) -> str:
        """Type of cached keys and values; ``auto`` for the model's type."""
        return self.config.kv_cache_dtype

    @property
    def parallelism(self) -> Parallelism:
        """How the server is split over devices."""
        return Parallelism(
            tp=self.config.tp_size,
            pp=self.config.pp_size,
            dp=self.config.dp_size,
            whole_experts=self.config.ep_size > 1,
            nodes=self.config.nnodes,
            node_rank=self.config.node_rank,
        )

    def parallel_overrides(self, parallelism: Parallelism) -> tuple[str, ...]:
        """Return the overrides that split a server in this way; each pipeline stage runs on its own machine."""
        words = [f"engine.tp_size={parallelism.tp}"]
        if parallelism.pp > 1:
            words += [f"engine.pp_size={parallelism.pp}", f"engine.nnodes={parallelism.pp}"]
            words.append("engine.dist_init_addr=HOST:PORT")
        if parallelism.whole_experts:
            words.append(f"engine.ep_size={parallelism.tp}")
        return tuple(words)

    @property
    def memory_fraction(self) -> float:
        """Share of a device's memory that the server plans with."""
        return self.config.mem_fraction_static

    def unscorable(self) -> str | None:
        """Return why accuracy tasks cannot run and what to type; None if they can."""
        if self.config.skip_tokenizer_init:
            return "engine.skip_tokenizer_init=true gives no text for accuracy tasks"
        return None

    def command(self, interpreter: str, launch: Launch) -> list[str]:
        """Return the command that serves a checkpoint on 127.0.0.1."""
        context = self.config.context_length or launch.context_length + OWN_POSITIONS
        values = {
            "--model-path": launch.checkpoint,
            "--host": "127.0.0.1",
            "--port": launch.port,
            "--dtype": self.config.dtype,
            "--kv-cache-dtype": self.config.kv_cache_dtype,
            "--mem-fraction-static": f"{fraction(self.config, launch):.4g}",
            "--context-length": context,
            "--json-model-override-args": json.dumps(yarn_fields(launch.yarn, context)) if launch.yarn else None,
            "--max-total-tokens": self.config.max_total_tokens,
            "--max-running-requests": self.config.max_running_requests,
            "--chunked-prefill-size": self.config.chunked_prefill_size,
            "--attention-backend": self.config.attention_backend,
            "--random-seed": self.config.random_seed,
            "--device": None if self.config.device == "auto" else self.config.device,
            **_parallel(self.config),
        }
        if self.config.device == "cpu":
            values["--attention-backend"] = self.config.attention_backend or "torch_native"
            values["--max-total-tokens"] = self.config.max_total_tokens or CPU_TOKENS
        switches = {
            "--enable-mixed-chunk": self.config.mixed_chunk,
            "--enable-deterministic-inference": self.config.deterministic,
            "--skip-tokenizer-init": self.config.skip_tokenizer_init,
            "--incremental-streaming-output": self.config.incremental_streaming,
            "--enable-metrics": self.config.metrics,
            "--disable-overlap-schedule": self.config.device == "cpu",
        }
        argv = [interpreter, "-P", str(LAUNCHER)]
        argv += [word for flag, value in values.items() if value is not None for word in (flag, str(value))]
        return [*argv, *(flag for flag, on in switches.items() if on), *self.config.extra_args]

    def environment(self, api_key: str) -> dict[str, str]:
        """Return the server's environment variables: offline, only its own packages, and the API key."""
        return {
            KEY_VARIABLE: api_key,
            "HF_HUB_OFFLINE": "1",
            # Allows OWN_POSITIONS; a prompt plus its answer is never longer than the model's context.
            "SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONPATH": "",
            "PYTHONUNBUFFERED": "1",
            **toolchain.variables(self.config.toolchain),
            **({"OMP_NUM_THREADS": threads} if (threads := os.environ.get("OMP_NUM_THREADS")) else {}),
        }

    def context_length(self, wanted: int) -> int:
        """Return the longest prompt plus answer in tokens: the config field, or else the model's."""
        return self.config.context_length or wanted

    def facts(self, ask: Ask, log: Log) -> tuple[EngineInfo, ServerFacts]:
        """Return what the server reports about itself.

        Raises:
            EngineError: it does not report it.
        """
        answers = {}
        for path in ("/server_info", "/model_info"):
            status, body = ask(path)
            if status != 200:
                raise EngineError(f"the server does not answer {path} (HTTP {status})")
            answers[path] = json.loads(body)
        server = answers["/server_info"]
        states = server.get("internal_states") or [{}]
        state = states[0]
        memory = state.get("memory_usage", {})
        info = EngineInfo.of({**answers["/model_info"], **state, **server})
        return info, ServerFacts(
            version=server.get("version"),
            kv_capacity_tokens=_times(server.get("max_total_num_tokens"), self.config.dp_size),
            # Prompts of max_req_input_len are refused, and answers near it are truncated without an error: stay below.
            max_context_tokens=server.get("max_req_input_len"),
            weights_bytes=weights_bytes(self.config, server.get("device"), memory),
            kv_cache_dtype=self.config.kv_cache_dtype,
            devices=1 if server.get("device") == "cpu" else self.config.tp_size * self.config.pp_size,
            replicas=self.config.dp_size,
            max_running=_times(state.get("effective_max_running_requests_per_dp"), self.config.dp_size),
        )

    def expanded(self, facts: ServerFacts, manifest: Manifest, bf16_bytes: int) -> str | None:
        """Return why a quantized checkpoint appears to have been expanded to 16 bits, judged by its weights' memory.

        Args:
            facts: what the server reported.
            manifest: the checkpoint's manifest.
            bf16_bytes: size of the same model in 16 bits.

        Returns:
            The reason; None where nothing is quantized, nothing was reported, or the size is as expected.
        """
        if manifest.quantization_config is None or facts.weights_bytes is None:
            return None
        stored = sum(file.bytes for name, file in manifest.files.items() if name.endswith(".safetensors"))
        if abs(facts.weights_bytes - stored) <= abs(facts.weights_bytes - bf16_bytes):
            return None
        return (
            f"its weights take {facts.weights_bytes / 1e9:.2f} GB of memory, closer to {bf16_bytes / 1e9:.2f} GB in "
            f"16 bits than to the checkpoint's {stored / 1e9:.2f} GB: the server appears to have expanded them"
        )

    def refuses(self, model: ServedModel) -> str | None:
        """Return why it is known to be unable to serve a model; None if it can, or if only a trial run can show it."""
        if self.config.device == "cpu" and model.form is not None:
            return "SGLang 0.5.23 on a CPU loads no quantized checkpoint: it asks CUDA for a compute capability"
        return None
