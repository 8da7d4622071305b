"""Engine ``scripted``: its server is the saboteur or the examinee. Tests add this folder to the engines' path."""

import json
import sys
from pathlib import Path

from bench.engines import Ask, Engine, EngineConfig, Launch, Log
from bench.errors import EngineError
from bench.records.engine_info import EngineInfo
from bench.records.record import ServerFacts


class Config(EngineConfig):
    script: Path
    """The plan of faults; see the server."""
    server: str = "tests.support.saboteur"
    """The server's module: the saboteur, or ``tests.support.examinee`` for accuracy tasks."""
    kernel: str = "one"
    """A field that affects what is computed."""


class Scripted(Engine):
    config: Config

    @property
    def protocol(self) -> str:
        return "sglang"

    def interpreter(self, what: str) -> str | None:
        return sys.executable

    def command(self, interpreter: str, launch: Launch) -> list[str]:
        return [interpreter, "-m", self.config.server, str(launch.port), str(self.config.script)]

    def environment(self, api_key: str) -> dict[str, str]:
        return {"SCRIPTED_API_KEY": api_key}

    def facts(self, ask: Ask, log: Log) -> tuple[EngineInfo, ServerFacts]:
        status, body = ask("/server_info")
        if status != 200:
            raise EngineError(f"the server does not answer /server_info (HTTP {status})")
        return EngineInfo.of(json.loads(body)), ServerFacts(
            version="scripted",
            kv_capacity_tokens=None,
            max_context_tokens=None,
            weights_bytes=None,
            kv_cache_dtype="auto",
            devices=1,
        )
