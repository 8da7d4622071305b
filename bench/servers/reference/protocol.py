"""The fields of ``POST /generate`` and the format of its errors, as in SGLang 0.5.23.

Field names and defaults are SGLang's (``sglang/srt/managers/io_struct.py``, ``sampling_params.py``); fields that this
server does not support are refused by name instead of ignored.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

MOST_STOPS = 32
"""Most stop texts that SGLang accepts (``MAX_STOP_COUNT``)."""


class RequestError(Exception):
    """A request that cannot be served; sent as an HTTP answer or, in a stream, as an error event."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status

    def body(self) -> dict[str, Any]:
        """Return the JSON answer."""
        return {"error": {"message": str(self)}}

    def event(self) -> dict[str, Any]:
        """Return the JSON of a stream's error event."""
        kind = "invalid_request_error" if self.status == 400 else "internal_server_error"
        return {"error": {"message": str(self), "type": kind, "code": self.status, "retryable": False}}


class MalformedError(RequestError):
    """The body is not a valid request; SGLang answers these in a different format."""

    def body(self) -> dict[str, Any]:
        """Return the JSON answer."""
        return {"object": "error", "message": str(self), "type": "Bad Request", "param": None, "code": self.status}


def _as_tuple(value: Any) -> Any:
    """Accept null and a single text where SGLang does."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


class SamplingParams(BaseModel):
    """Parameters of the generation."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    max_new_tokens: Annotated[int, Field(ge=0)] = 128
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """Divisor of the logits before the softmax, without unit; 0 takes the most likely token."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Cumulative probability, most likely tokens first, that tokens are sampled from."""
    top_k: Annotated[int, Field(ge=-1)] = -1
    """-1 (or 0) means the full vocabulary."""
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the most likely token's probability below which tokens are not sampled."""
    sampling_seed: int | None = None
    ignore_eos: bool = False
    """Continue past end-of-text tokens and, as SGLang does, past ``stop_token_ids``."""
    stop: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_as_tuple), Field(max_length=MOST_STOPS)
    ] = ()
    """Texts that end the answer; they are removed from it."""
    stop_token_ids: Annotated[tuple[int, ...], BeforeValidator(_as_tuple)] = ()
    skip_special_tokens: bool = True


class GenerateRequest(BaseModel):
    """The body of ``POST /generate``."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    input_ids: list[int] | list[list[int]] | None = None
    text: str | list[str] | None = None
    sampling_params: SamplingParams = SamplingParams()
    stream: bool = False
    return_logprob: bool = False
    logprob_start_len: Annotated[int, Field(ge=-1)] = -1
    """First prompt position whose log-probability is returned; -1 for the output only."""
    top_logprobs_num: Annotated[int, Field(ge=0)] = 0
    token_ids_logprob: list[int] | None = None

    @model_validator(mode="after")
    def _check_fields(self) -> Self:
        if (self.input_ids is None) == (self.text is None):
            raise ValueError("give either input_ids or text")
        if self.stream and self.is_batch:
            raise ValueError("a batch cannot be streamed: send its prompts as separate requests")
        return self

    @property
    def is_batch(self) -> bool:
        """Whether there are several prompts, so that the answer is a list."""
        prompts = self.text if self.input_ids is None else self.input_ids
        return isinstance(prompts, list) and any(not isinstance(first, int) for first in prompts[:1])


@dataclass(frozen=True)
class Prompt:
    """One prompt, validated for the served model."""

    tokens: tuple[int, ...]
    params: SamplingParams
    logprobs: bool
    """Whether log-probabilities of the output are returned."""
    logprob_start: int | None
    """First prompt position whose log-probability is returned; None for the output only."""
    top_logprobs: int
    token_ids: tuple[int, ...]

    @property
    def n_positions(self) -> int:
        """Prompt plus longest answer, tokens."""
        return len(self.tokens) + self.params.max_new_tokens


@dataclass(frozen=True)
class Limits:
    """Limits of the served model."""

    vocab_size: int
    context_length: int
    max_total_tokens: int
    """Positions that fit in memory at once."""


def parse(body: bytes) -> GenerateRequest:
    """Return the request that ``body`` holds.

    Raises:
        MalformedError: it is not JSON, or does not have the fields of a request.
        RequestError: it has an unknown field or an invalid sampling parameter.
    """
    try:
        return GenerateRequest.model_validate_json(body)
    except ValidationError as error:
        # A union reports every alternative that failed; the first is enough.
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "body"
        if first["type"] == "extra_forbidden":
            raise RequestError(f"{where} is not known to this server; remove it") from error
        if first["type"] == "value_error":
            raise RequestError(first["msg"].removeprefix("Value error, ")) from error
        message = f"{where}: {first['msg']}, got {str(first['input'])[:80]}"
        if first["loc"][:1] == ("sampling_params",):
            raise RequestError(message) from error
        raise MalformedError(message) from error


def prompts(
    request: GenerateRequest, limits: Limits, encode: Callable[[str], Sequence[int]] | None
) -> tuple[Prompt, ...]:
    """Return the prompts of a request, validated.

    Args:
        request: the parsed body.
        limits: limits of the served model.
        encode: the model's tokenizer; None if the checkpoint has none.

    Raises:
        RequestError: a prompt is empty or too long, or a token id is outside the vocabulary.
    """
    params = request.sampling_params
    if encode is None and (request.text is not None or params.stop):
        raise RequestError("the checkpoint has no tokenizer: send input_ids, and no stop texts")
    inputs: Any = request.input_ids
    if encode is not None and request.text is not None:
        inputs = encode(request.text) if isinstance(request.text, str) else [encode(text) for text in request.text]
    _check_vocabulary("stop_token_ids", params.stop_token_ids, limits)
    _check_vocabulary("token_ids_logprob", request.token_ids_logprob or (), limits)
    if request.top_logprobs_num > limits.vocab_size:
        raise RequestError(f"top_logprobs_num is {request.top_logprobs_num}, the vocabulary {limits.vocab_size}")
    return tuple(_prompt(tokens, request, limits) for tokens in (inputs if request.is_batch else [inputs]))


def _prompt(tokens: Sequence[int], request: GenerateRequest, limits: Limits) -> Prompt:
    if not tokens:
        raise RequestError("input_ids cannot be empty.")
    _check_vocabulary("input_ids", tokens, limits)
    if len(tokens) > limits.context_length:
        raise RequestError(
            f"The input ({len(tokens)} tokens) is longer than the model's context length "
            f"({limits.context_length} tokens)."
        )
    start = request.logprob_start_len if request.return_logprob and request.logprob_start_len >= 0 else None
    if start is not None and start >= len(tokens):
        raise RequestError(f"logprob_start_len is {start}, but the input has only {len(tokens)} tokens")
    prompt = Prompt(
        tokens=tuple(tokens),
        params=request.sampling_params,
        logprobs=request.return_logprob,
        logprob_start=start,
        top_logprobs=request.top_logprobs_num,
        token_ids=tuple(request.token_ids_logprob or ()),
    )
    room = min(limits.context_length, limits.max_total_tokens)
    if prompt.n_positions > room:
        raise RequestError(
            f"Input ({len(tokens)} tokens) and max_new_tokens ({prompt.params.max_new_tokens}) together are longer "
            f"than the {room} tokens that this server holds; ask for fewer."
        )
    return prompt


def _check_vocabulary(field: str, tokens: Sequence[int], limits: Limits) -> None:
    if tokens and not (min(tokens) >= 0 and max(tokens) < limits.vocab_size):
        wrong = next(token for token in tokens if not 0 <= token < limits.vocab_size)
        raise RequestError(f"{field} holds {wrong}, outside the vocabulary (0 to {limits.vocab_size - 1})")
