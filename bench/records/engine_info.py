"""What a record keeps of a server's description of itself: a list of typed fields, and nothing else.

SGLang's ``/server_info`` repeats every argument of the server, API keys included, at the top level and again for each
scheduler. A list of fields to drop would miss a new one, so this is a list of fields to keep. Older records are read
through the same list.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
    model_serializer,
)


def _without_login(text: str) -> str:
    """Return ``text``.

    Raises:
        ValueError: it is an address with a user's name or password.
    """
    address = text.partition("://")[2].partition("/")[0]
    if "@" in address:
        raise ValueError("an address with a login")
    return text


Text = Annotated[StrictStr, Field(max_length=1000), AfterValidator(_without_login)]
Count = Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)]
Number = Annotated[StrictFloat, Field(allow_inf_nan=False)]
Flag = StrictBool
Scheme = Annotated[StrictStr, Field(pattern=r"^\w{1,80}$")]
Kernel = Annotated[StrictStr, Field(pattern=r"^\w{1,80}Kernel$")]


class _Described(BaseModel):
    """Named fields of a JSON object; the object's other fields are dropped, and absent ones are not written."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    @model_serializer(mode="wrap")
    def _present(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in write(self).items() if value is not None}


class Memory(_Described):
    """Memory of SGLang's first scheduler by its own names, GiB."""

    weight: Number | None = None
    kvcache: Number | None = None
    graph: Number | None = None
    token_capacity: Count | None = None


class ModelEntry(_Described):
    """An entry of ``/v1/models``."""

    id: Text | None = None
    root: Text | None = None
    max_model_len: Count | None = None


class Cache(_Described):
    """Labels of vLLM's ``vllm:cache_config_info``."""

    block_size: Text | None = None
    num_gpu_blocks: Text | None = None
    num_cpu_blocks: Text | None = None
    cache_dtype: Text | None = None
    kv_cache_size_tokens: Text | None = None
    kv_cache_max_concurrency: Text | None = None
    gpu_memory_utilization: Text | None = None
    enable_prefix_caching: Text | None = None
    sliding_window: Text | None = None


class Libraries(_Described):
    """Versions that the reference server computes with."""

    torch: Text | None = None
    transformers: Text | None = None
    compressed_tensors: Annotated[
        Text | None, Field(validation_alias=AliasChoices("compressed-tensors", "compressed_tensors"))
    ] = None


class EngineInfo(_Described):
    """A server's version and resolved arguments, by its own names; None where it does not report one."""

    version: Text | None = None
    engine: Text | None = None
    device: Text | None = None
    model_path: Text | None = None
    tokenizer_path: Text | None = None
    served_model_name: Text | None = None
    revision: Text | None = None
    weight_version: Text | None = None
    model_type: Text | None = None
    architectures: tuple[Text, ...] | None = None
    load_format: Text | None = None
    trust_remote_code: Flag | None = None
    dtype: Text | None = None
    quantization: Text | None = None
    kv_cache_dtype: Text | None = None
    emulated: Flag | None = None
    weights_bytes: Count | None = None
    yarn_factor: Number | None = None
    yarn_original: Count | None = None

    context_length: Count | None = None
    max_total_num_tokens: Count | None = None
    max_total_tokens: Count | None = None
    max_req_input_len: Count | None = None
    max_prefill_tokens: Count | None = None
    max_prefill_chunk: Count | None = None
    cache_tokens: Count | None = None
    max_running_requests: Count | None = None
    effective_max_running_requests_per_dp: Count | None = None
    mem_fraction_static: Number | None = None
    chunked_prefill_size: Count | None = None
    page_size: Count | None = None
    stream_interval: Count | None = None
    num_threads: Count | None = None
    random_seed: Count | None = None

    tp_size: Count | None = None
    dp_size: Count | None = None
    pp_size: Count | None = None
    ep_size: Count | None = None
    nnodes: Count | None = None

    attention_backend: Text | None = None
    prefill_attention_backend: Text | None = None
    decode_attention_backend: Text | None = None
    sampling_backend: Text | None = None
    grammar_backend: Text | None = None
    moe_runner_backend: Text | None = None
    fp8_gemm_runner_backend: Text | None = None
    fp4_gemm_runner_backend: Text | None = None
    schedule_policy: Text | None = None
    schedule_conservativeness: Number | None = None
    speculative_algorithm: Text | None = None
    speculative_num_steps: Count | None = None
    speculative_num_draft_tokens: Count | None = None
    cuda_graph_max_bs: Count | None = None
    disable_cuda_graph: Flag | None = None
    disable_piecewise_cuda_graph: Flag | None = None
    disable_overlap_schedule: Flag | None = None
    disable_radix_cache: Flag | None = None
    enable_mixed_chunk: Flag | None = None
    enable_torch_compile: Flag | None = None
    enable_deterministic_inference: Flag | None = None
    enable_dp_attention: Flag | None = None
    enable_metrics: Flag | None = None
    incremental_streaming_output: Flag | None = None
    skip_tokenizer_init: Flag | None = None

    memory_usage: Memory | None = None
    model: ModelEntry | None = None
    cache: Cache | None = None
    kernels: dict[Scheme, Kernel] | None = None
    """Scheme of quantized layers: the kernel that vLLM chose for it."""
    libraries: Libraries | None = None

    @classmethod
    def of(cls, description: Mapping[str, Any]) -> Self:
        """Return what may be kept of a server's description; a value of another type than the field's is dropped."""
        known = {name: value for name, value in _flat(description).items() if name in cls.model_fields}
        try:
            return cls.model_validate(known)
        except ValidationError as error:
            wrong = {problem["loc"][0] for problem in error.errors()}
            return cls.model_validate({name: value for name, value in known.items() if name not in wrong})

    def reported(self) -> dict[str, Any]:
        """Return the fields that the server reported, as plain data."""
        return self.model_dump(mode="json")


def _flat(description: Mapping[str, Any]) -> dict[str, Any]:
    """Merge a description whose parts earlier versions kept apart, by the path of the request."""
    parts = [
        part
        for name, part in description.items()
        if (name.startswith("/") or name == "model_info") and isinstance(part, Mapping)
    ]
    return {name: value for part in (*parts, description) for name, value in part.items()}


def _read(value: Any) -> Any:
    return EngineInfo.of(value) if isinstance(value, Mapping) else value


KeptInfo = Annotated[EngineInfo, BeforeValidator(_read)]
"""Type of a record's field."""
