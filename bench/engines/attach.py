"""An external server, already running: nothing is started or quantized, and less can be verified.

It speaks SGLang's native API or OpenAI's ``/v1/completions`` (vLLM, TensorRT-LLM, llama.cpp, Ollama, …). Every path
where one of these servers is known to describe itself is queried; none is required.
"""

import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from bench.engines import Ask, Engine, EngineConfig, Launch, Log
from bench.errors import EngineError, SourceError
from bench.records.engine_info import EngineInfo
from bench.records.record import ServerFacts
from bench.speed.prompts import ordinary_vocabulary
from bench.speed.words import read_words
from bench.toolchains.toolchain import interpreter_for
from quantize import hub
from quantize.architecture import Architecture
from quantize.folder import INDEX, SIDE_FILES, TOKENIZERS

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
"""Matches the name of a repository on the Hugging Face hub."""
PLACES = {
    "sglang": ("/server_info", "/get_server_info", "/model_info"),
    "openai": ("/v1/models", "/version", "/props", "/api/version"),
}
"""Where servers describe themselves: vLLM and TensorRT-LLM at /version, llama.cpp at /props, Ollama at /api/version."""
FIRST, LAST = 0.1, 0.9
"""Part of the vocabulary that prompts are sampled from without a tokenizer. Known model families keep their special
tokens at the very beginning (Llama 2, Mistral, Gemma, SmolLM2) or the very end (Qwen, Llama 3, DeepSeek, GLM, Phi,
gpt-oss) of the vocabulary."""


class Config(EngineConfig):
    """Fields of ``engine=attach``; configs/engine/attach.yaml explains them."""

    url: str
    protocol: Literal["sglang", "openai"]
    served_model: str
    api_key_env: str | None
    prompt: Literal["ids", "text"]
    tokenizer: Path | None
    prompt_overhead: int = Field(ge=0)

    @field_validator("url", mode="before")
    @classmethod
    def _is_url(cls, value: Any) -> str:
        if not isinstance(value, str) or not value.startswith(("http://", "https://")):
            raise ValueError("name the server, for example engine.url=http://127.0.0.1:8000")
        if any(mark in value for mark in "@?#"):
            raise ValueError(
                "an address with a password or a query would be in every record; use engine.api_key_env=VARIABLE"
            )
        try:
            parts = urlsplit(value)
            is_invalid = not parts.hostname or parts.port == 0
        except ValueError:
            is_invalid = True
        if is_invalid:
            raise ValueError(f"'{value}' is not a valid address; expected something like http://127.0.0.1:8000")
        return value.rstrip("/").removesuffix("/v1")

    @model_validator(mode="after")
    def _text_needs_tokenizer(self) -> Self:
        if self.prompt == "text" and (self.protocol != "openai" or self.tokenizer is None):
            raise ValueError(
                "prompt=text needs engine.protocol=openai and engine.tokenizer=FOLDER with a tokenizer.json"
            )
        if self.prompt == "ids" and self.prompt_overhead:
            raise ValueError("prompt_overhead is for prompt=text: nothing is added to token ids")
        return self


def _object(body: bytes) -> dict[str, Any] | None:
    """Return the parsed JSON object; None where a server answers with something else, such as an HTML page."""
    try:
        value = json.loads(body)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _of_sglang(config: Config, answers: dict[str, Any]) -> tuple[EngineInfo, ServerFacts]:
    if not answers:
        raise EngineError(f"{config.url} is not an SGLang server (no /server_info); try engine.protocol=openai")
    server = {**answers.get("/get_server_info", {}), **answers.get("/server_info", {})}
    info = EngineInfo.of({**answers.get("/model_info", {}), **server})
    states = server.get("internal_states")
    copies = [EngineInfo.of(state) for state in states if isinstance(state, dict)] if isinstance(states, list) else []
    running = [copy.effective_max_running_requests_per_dp for copy in copies]
    limits = [most for most in running if most is not None]
    return info, ServerFacts(
        version=info.version,
        kv_capacity_tokens=info.max_total_num_tokens,
        # Prompts of max_req_input_len are refused, and answers near it are truncated without an error: stay below.
        max_context_tokens=info.max_req_input_len or info.context_length,
        weights_bytes=info.weights_bytes,
        kv_cache_dtype=info.kv_cache_dtype or "auto",
        devices=1,
        max_running=sum(limits) if limits and len(limits) == len(running) else info.max_running_requests,
    )


def _of_openai(config: Config, answers: dict[str, Any]) -> tuple[EngineInfo, ServerFacts]:
    models = {str(model.get("id")): model for model in answers.get("/v1/models", {}).get("data") or ()}
    if models and config.served_model not in models:
        problem = f"has no model '{config.served_model}'" if config.served_model else "requires a model name"
        raise EngineError(f"{config.url} {problem}; it serves {', '.join(models)}: engine.served_model=NAME")
    props = answers.get("/props", {})
    versions = (
        answers.get("/version", {}).get("version"),
        props.get("build_info"),
        answers.get("/api/version", {}).get("version"),
    )
    described = {
        "version": next((str(version) for version in versions if version), None),
        "model": models.get(config.served_model),
        "model_path": props.get("model_path"),
        "context_length": props.get("default_generation_settings", {}).get("n_ctx"),
    }
    info = EngineInfo.of(described)
    return info, ServerFacts(
        version=info.version,
        kv_capacity_tokens=None,
        max_context_tokens=(info.model and info.model.max_model_len) or info.context_length,
        weights_bytes=None,
        kv_cache_dtype="auto",
        devices=1,
    )


class Attach(Engine):
    """An external server."""

    config: Config

    @property
    def protocol(self) -> str:
        """The protocol that ``engine.protocol`` names."""
        return self.config.protocol

    @property
    def served_model(self) -> str:
        """Return the model name that requests must use."""
        return self.config.served_model

    def interpreter(self, what: str) -> str | None:
        """Return None, because nothing is started.

        Raises:
            ToolchainError: text prompts or a tokenizer on the hub need a package that is missing.
        """
        if self.config.prompt == "text":
            interpreter_for(("tokenizers",), what)
        if self.config.tokenizer is not None and not self.config.tokenizer.is_dir():
            interpreter_for(("huggingface_hub",), what)
        return None

    @property
    def address(self) -> str | None:
        """Return the server's address."""
        return self.config.url

    def command(self, interpreter: str, launch: Launch) -> list[str]:
        """Raise an error: nothing is started.

        Raises:
            EngineError: always.
        """
        raise EngineError("engine=attach starts no server")

    def _tokenizer(self) -> Path | None:
        """Return the folder with the served model's tokenizer; from the hub, download everything but the weights.

        Raises:
            SourceError: it is unavailable.
        """
        if self.config.tokenizer is None:
            return None
        if self.config.tokenizer.is_dir():
            return self.config.tokenizer.resolve()
        from huggingface_hub import snapshot_download

        repo = str(self.config.tokenizer)
        try:
            commit = hub.download(repo, "main", "tokenizer_config.json").parent.name
            with hub.asking(repo, commit):
                return Path(
                    snapshot_download(repo, revision=commit, allow_patterns=list(SIDE_FILES), ignore_patterns=[INDEX])
                )
        except hub.HubError as error:
            raise SourceError(f"engine.tokenizer={repo} is not a local folder, and from the hub: {error}") from error

    def tokenizer(self, checkpoint: Path | None) -> Path:
        """Return the folder with the served model's tokenizer.

        Raises:
            SourceError: none is configured, or it is unavailable.
        """
        folder = self._tokenizer()
        if folder is None:
            raise SourceError(self.unscorable() or "engine.tokenizer names no tokenizer")
        return folder

    def api_key(self) -> str | None:
        """Return the key from the variable that ``engine.api_key_env`` names; None where it names none.

        Raises:
            EngineError: the variable is not set.
        """
        variable = self.config.api_key_env
        api_key = os.environ.get(variable) if variable else None
        if variable and not api_key:
            raise EngineError(f"engine.api_key_env={variable}: no such environment variable; export {variable}=…")
        return api_key

    def unscorable(self) -> str | None:
        """Return why accuracy tasks cannot run and what to type; None if they can, or if only a trial run shows it."""
        if self.config.tokenizer is None:
            return "accuracy tasks need the served model's tokenizer: engine.tokenizer=FOLDER, or its name on the hub"
        if self.config.prompt == "text":
            return "accuracy tasks send token ids, and engine.prompt=text says that the server accepts none"
        if self.config.tokenizer.is_dir() and not any((self.config.tokenizer / name).is_file() for name in TOKENIZERS):
            return f"engine.tokenizer: {self.config.tokenizer} contains none of {', '.join(TOKENIZERS)}"
        if not self.config.tokenizer.is_dir() and not REPOSITORY.fullmatch(str(self.config.tokenizer)):
            return f"engine.tokenizer: there is no folder {self.config.tokenizer}"
        return None

    def vocabulary(self, architecture: Architecture, checkpoint: Path | None) -> tuple[int, ...]:
        """Return the token ids that prompts are sampled from.

        With a tokenizer these are its ordinary tokens, or its whole words for text prompts; without one, the middle of
        the vocabulary.

        Raises:
            SourceError: the tokenizer cannot be read.
        """
        folder = self._tokenizer()
        if folder is None:
            size = architecture.vocab_size
            return tuple(range(int(FIRST * size), int(LAST * size)))
        file = folder / "tokenizer.json"
        return read_words(file).ids if self.config.prompt == "text" else ordinary_vocabulary(file)

    def text_of(self) -> Callable[[Sequence[int]], str] | None:
        """Return the function that turns ids of `vocabulary` into the text to send; None where ids are sent.

        It drops as many words as the server adds tokens, so that the server counts the requested prompt length.

        Raises:
            SourceError: the tokenizer cannot be read.
        """
        folder = self._tokenizer() if self.config.prompt == "text" else None
        if folder is None:
            return None
        words = read_words(folder / "tokenizer.json")
        return lambda ids: words.text(ids[: max(1, len(ids) - self.config.prompt_overhead)])

    def unproven(self) -> tuple[str, ...]:
        """Return what cannot be verified about an external server, one sentence each; the protocol adds its own."""
        sentences = (
            "that the server has loaded this model in this quantization: model=… and quant=… are what the command says",
            "that nobody else uses the server in the meantime",
        )
        if self.config.prompt == "ids":
            return sentences
        added = f", including {self.config.prompt_overhead} that it adds" if self.config.prompt_overhead else ""
        return (*sentences, f"which tokens the prompt had: text was sent, and the server counted its tokens{added}")

    def facts(self, ask: Ask, log: Log) -> tuple[EngineInfo, ServerFacts]:
        """Return what the server reports about itself, if anything.

        Raises:
            EngineError: nothing answers there, or it does not serve the configured model.
        """
        answers = {place: ask(place) for place in PLACES[self.config.protocol]}
        statuses = {status for status, _ in answers.values()}
        if statuses == {0}:
            raise EngineError(
                f"nothing answers at {self.config.url}: is the server running, and is engine.url correct?"
            )
        if statuses <= {401, 403}:
            raise EngineError(
                f"{self.config.url} denies access (HTTP {max(statuses)}): name the variable that holds its key with "
                "engine.api_key_env=…"
            )
        if all(300 <= status < 400 for status in statuses):
            redirect = next(iter(answers.values()))[1].decode()
            raise EngineError(
                f"{self.config.url} {redirect}, which is not followed: set engine.url to the server's own address"
            )
        objects = {
            place: parsed for place, (status, body) in answers.items() if status == 200 and (parsed := _object(body))
        }
        read = _of_sglang if self.config.protocol == "sglang" else _of_openai
        return read(self.config, objects)
