"""A complete engine: it starts ``toy_server.py``, which serves a transformers model, one request at a time."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

from bench.engines import Ask, Engine, EngineConfig, Launch, Log, ServedModel
from bench.records.engine_info import EngineInfo
from bench.records.record import ServerFacts

SERVER = Path(__file__).resolve().parent.parent / "toolchains" / "toy_server.py"


class Config(EngineConfig):
    """Fields of ``engine=toy``."""

    dtype: Literal["bfloat16", "float32"]


class Toy(Engine):
    """The toy server, in quantbench's own environment."""

    config: Config

    toolchain_packages: ClassVar[tuple[str, ...]] = ("torch", "transformers")
    keeps_prefixes: ClassVar[bool] = False

    @property
    def protocol(self) -> str:
        """OpenAI's completions."""
        return "openai"

    @property
    def served_model(self) -> str:
        """The model's name in requests."""
        return "toy"

    def code_files(self) -> Sequence[Path]:
        """Return this module and the server: a run is not resumed if either has changed."""
        return [*super().code_files(), SERVER]

    def refuses(self, model: ServedModel) -> str | None:
        """Return why it cannot serve a model; None if it can."""
        return "toy serves plain 16-bit models only: quant=bf16 context=native" if model.form or model.yarn else None

    def unscorable(self) -> str | None:
        """Return why accuracy tasks cannot run."""
        return "toy returns no log-probabilities"

    def command(self, interpreter: str, launch: Launch) -> list[str]:
        """Return the command that serves a checkpoint on 127.0.0.1."""
        return [interpreter, "-P", str(SERVER), str(launch.checkpoint), str(launch.port), self.config.dtype]

    def environment(self, api_key: str) -> dict[str, str]:
        """Return the server's environment variables, including the key."""
        return {"TOY_API_KEY": api_key, "HF_HUB_OFFLINE": "1"}

    def facts(self, ask: Ask, log: Log) -> tuple[EngineInfo, ServerFacts]:
        """Return what the ready server reports about itself: for the record, and to compute with."""
        _, body = ask("/v1/models")
        [model] = json.loads(body)["data"]
        info = EngineInfo.of({"device": "cpu", "dtype": self.config.dtype, "model": model})
        return info, ServerFacts(
            version="1",
            kv_capacity_tokens=None,
            max_context_tokens=model["max_model_len"],
            weights_bytes=None,
            kv_cache_dtype="auto",
            devices=1,
            max_running=1,
        )
