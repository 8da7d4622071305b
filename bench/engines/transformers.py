"""The reference server: a transformers model behind SGLang's native HTTP API (:mod:`bench.servers.reference`)."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import PositiveInt

from bench.engines import Ask, Engine, EngineConfig, Launch, Log
from bench.errors import EngineError
from bench.machine.diagnose import Kind
from bench.machine.threads import memory, waiting
from bench.records.engine_info import EngineInfo
from bench.records.record import ServerFacts
from quantize.formats import Format

REFERENCE = Path(__file__).resolve().parents[1] / "servers" / "reference"


class Config(EngineConfig):
    """Fields of ``engine=transformers``."""

    device: Literal["auto", "cpu", "cuda"]
    dtype: Literal["auto", "bfloat16", "float32"]
    kv_cache_dtype: Literal["auto", "fp8_e4m3"]
    max_running_requests: PositiveInt


class Transformers(Engine):
    """The reference server, started by the run."""

    config: Config

    toolchain_packages: ClassVar[tuple[str, ...]] = ("torch", "transformers", "compressed_tensors")
    published_source: ClassVar[str | None] = "qwen3-speed"
    advice: ClassVar[Mapping[Kind, str]] = {
        "no GPU": "no usable GPU: check nvidia-smi and CUDA_VISIBLE_DEVICES, or set engine.device=cpu"
    }

    @property
    def protocol(self) -> str:
        """SGLang's native API."""
        return "sglang"

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

    def code_files(self) -> Sequence[Path]:
        """Return this module and the reference server."""
        return [*super().code_files(), *sorted(REFERENCE.glob("*.py"))]

    def emulates(self, form: Format | None, on_cpu: bool | None = None) -> bool:
        """Return whether quantized weights, or keys and values, are expanded to 16 bits before they are used."""
        return form is not None or self.config.kv_cache_dtype != "auto"

    def command(self, interpreter: str, launch: Launch) -> list[str]:
        """Return the command that serves a checkpoint on 127.0.0.1."""
        yarn = launch.yarn
        stretch = ["--yarn-factor", str(yarn.factor), "--yarn-original", str(yarn.original)] if yarn else []
        return [
            interpreter, "-m", "bench.servers.reference",
            "--model-path", str(launch.checkpoint),
            "--host", "127.0.0.1",
            "--port", str(launch.port),
            "--device", self.config.device,
            "--dtype", self.config.dtype,
            "--kv-cache-dtype", self.config.kv_cache_dtype,
            "--context-length", str(launch.context_length),
            "--max-running-requests", str(self.config.max_running_requests),
            "--exit-with-parent",
            *stretch,
        ]  # fmt: skip

    def environment(self, api_key: str) -> dict[str, str]:
        """Return the server's environment variables: offline, without a key, and sharing its cores."""
        return {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", **waiting(), **memory()}

    def facts(self, ask: Ask, log: Log) -> tuple[EngineInfo, ServerFacts]:
        """Return what the server reports about itself.

        Raises:
            EngineError: it does not report it.
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
            kv_cache_dtype=self.config.kv_cache_dtype,
            devices=1,
            max_running=info["max_running_requests"],
        )
