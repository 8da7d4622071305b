"""The reference server: a transformers model behind SGLang's native HTTP API (:mod:`bench.serving`)."""

from pathlib import Path
from typing import Literal

from pydantic import PositiveFloat, PositiveInt

from quantize.checkpoint import Manifest
from quantize.key import Frozen

NEEDS = ("torch", "transformers", "compressed_tensors")


class Config(Frozen):
    """Fields of ``engine=transformers``."""

    device: Literal["auto", "cpu", "cuda"]
    dtype: Literal["auto", "bfloat16", "float32"]
    kv_cache_dtype: Literal["auto", "fp8_e4m3"]
    max_running_requests: PositiveInt
    startup_timeout_s: PositiveFloat
    request_timeout_s: PositiveFloat
    stall_timeout_s: PositiveFloat


def command(config: Config, interpreter: str, checkpoint: Path, context_length: int, port: int) -> list[str]:
    """Return the command that serves ``checkpoint`` on 127.0.0.1:``port``."""
    return [
        interpreter, "-m", "bench.serving",
        "--model-path", str(checkpoint),
        "--host", "127.0.0.1",
        "--port", str(port),
        "--device", config.device,
        "--dtype", config.dtype,
        "--kv-cache-dtype", config.kv_cache_dtype,
        "--context-length", str(context_length),
        "--max-running-requests", str(config.max_running_requests),
        "--exit-with-parent",
    ]  # fmt: skip


def environment(config: Config) -> dict[str, str]:
    """Return the server's own variables: it never asks a hub."""
    return {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def emulates(config: Config, manifest: Manifest) -> bool:
    """Tell whether anything quantized is expanded back to 16 bits to be computed with: weights, or keys and values."""
    return manifest.quantization_config is not None or config.kv_cache_dtype != "auto"
