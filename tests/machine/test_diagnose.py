"""Causes of a server's death in the logs of real servers, as they print them."""

# ruff: noqa: E501 - messages are quoted as printed

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.engines.sglang import ADVICE as SGLANG_ADVICE
from bench.engines.sglang import LOG_PATTERNS as SGLANG_PATTERNS
from bench.engines.vllm import ADVICE as VLLM_ADVICE
from bench.engines.vllm import LOG_PATTERNS as VLLM_PATTERNS
from bench.machine.diagnose import NOTHING, RULES, diagnose, last_words, lines_of, why

SGLANG = """[2026-11-25 03:16:04] server_args={{'model_path': '/m', 'quantization': None, 'mem_fraction_static': 0.85}}
[2026-11-25 03:16:31 TP0] Load weight begin. avail mem=78.71 GB
[2026-11-25 03:16:35 TP0] Scheduler hit an exception: Traceback (most recent call last):
  File "/env/lib/python3.11/site-packages/sglang/srt/managers/scheduler.py", line 6362, in run_scheduler_process
    scheduler = Scheduler(server_args, port_args)
                ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "/env/lib/python3.11/site-packages/sglang/srt/model_executor/model_runner.py", line 1290, in load_model
    raise ValueError(msg)
{error}

[2026-11-25 03:16:35] Received sigquit from a child process. It usually means the child failed.
"""
VLLM = """INFO 11-25 03:20:11 [core.py:105] Initializing a V1 LLM engine (v0.32.0) with config: model='/m'
(EngineCore_DP0 pid=4711) ERROR 11-25 03:20:40 [core.py:1017] EngineCore failed to start.
(EngineCore_DP0 pid=4711) ERROR 11-25 03:20:40 [core.py:1017] Traceback (most recent call last):
(EngineCore_DP0 pid=4711) ERROR 11-25 03:20:40 [core.py:1017]   File "/env/vllm/v1/engine/core.py", line 1008, in run
(EngineCore_DP0 pid=4711) ERROR 11-25 03:20:40 [core.py:1017]     raise ValueError(
(EngineCore_DP0 pid=4711) ERROR 11-25 03:20:40 [core.py:1017] {error}
(APIServer pid=4700) Traceback (most recent call last):
(APIServer pid=4700)   File "/env/vllm/entrypoints/openai/api_server.py", line 700, in run_server
(APIServer pid=4700) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {{}}
"""
PLAIN = "{error}\n"
OWN = {SGLANG: (SGLANG_PATTERNS, SGLANG_ADVICE), VLLM: (VLLM_PATTERNS, VLLM_ADVICE), PLAIN: (NOTHING, NOTHING)}

CASES = [
    (SGLANG, "out of memory", "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.16 GiB. GPU 0 has a total "
     "capacity of 79.19 GiB of which 1.06 GiB is free. Including non-PyTorch memory, this process has 78.12 GiB memory "
     "in use.", "nvidia-smi"),
    (SGLANG, "no room for keys", "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static. Current "
     "value: mem_fraction_static=0.425", "raise engine.mem_fraction_static"),
    (SGLANG, "out of memory", "ValueError: The memory capacity is unbalanced. Some GPUs may be occupied by other "
     "processes. pre_model_load_memory=12.1", "another program"),
    (SGLANG, "GPU not supported", "ValueError: The quantization method fp8 is not supported for the current GPU. Minimum "
     "capability: 89. Current capability: 75.", "choose another quant="),
    (SGLANG, "GPU not supported", "torch.AcceleratorError: CUDA error: no kernel image is available for execution on the "
     "device", "choose another quant="),
    (SGLANG, "missing kernel", "ModuleNotFoundError: No module named 'sgl_kernel'", "quantbench toolchain check"),
    (SGLANG, "missing kernel", "ImportError: /env/sgl_kernel/sm90/common_ops.abi3.so: undefined symbol: "
     "_ZN3c104cuda29c10_cuda_check_implementationEiPKcS2_ib", "quantbench toolchain check"),
    (SGLANG, "context too long", "ValueError: Warning: User-specified context_length (140000) is greater than the derived "
     "context_length (40960). This may lead to incorrect model outputs or CUDA errors.", "context=131k"),
    (SGLANG, "quantization not supported", "ValueError: Unknown quantization method: abc. Must be one of ['fp8', 'awq'].",
     "quant="),
    (SGLANG, "quantization not supported", "ValueError: torch.bfloat16 is not supported for quantization method awq. "
     "Supported dtypes: [torch.float16]", "quant="),
    (SGLANG, "quantization not supported", "NotImplementedError: No compressed-tensors compatible scheme was found.",
     "quant="),
    (SGLANG, "sizes do not divide", "AssertionError: 2 is not divisible by 4", "engine.tp_size"),
    (SGLANG, "NCCL", "torch.distributed.DistBackendError: NCCL error in: /pytorch/torch/csrc/distributed/c10d/"
     "NCCLUtils.cpp:77, unhandled system error (run with NCCL_DEBUG=INFO for details), NCCL version 2.30.7",
     "NCCL_DEBUG=INFO"),
    (SGLANG, "crash on the GPU", "torch.AcceleratorError: CUDA error: an illegal memory access was encountered",
     "engine.attention_backend"),
    (SGLANG, "missing files", "OSError: /m does not appear to have a file named config.json. Checkout "
     "'https://huggingface.co//m/tree/main' for available files.", "the checkpoint is incomplete"),
    (SGLANG, "missing files", "RuntimeError: Cannot find any model weights with `/m`", "the checkpoint is incomplete"),
    (VLLM, "no room for keys", "ValueError: No available memory for the cache blocks. Try increasing "
     "`gpu_memory_utilization` when initializing the engine", "engine.gpu_memory_utilization"),
    (VLLM, "no room for keys", "ValueError: To serve at least one request with the model's max seq len (131072), (18.0 GiB "
     "KV cache is needed, which is larger than the available KV cache memory (9.31 GiB). ", "model.context_length"),
    (VLLM, "out of memory", "ValueError: Free memory on device cuda:0 (3.2/79.19 GiB) on startup is less than desired GPU "
     "memory utilization (0.9, 71.27 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes.",
     "another program"),
    (VLLM, "context too long", "pydantic_core._pydantic_core.ValidationError: Value error, User-specified max_model_len "
     "(140000) is greater than the derived max_model_len (max_position_embeddings=40960", "context=131k"),
    (PLAIN, "port taken", "ERROR:    [Errno 98] error while attempting to bind on address ('127.0.0.1', 30000): address "
     "already in use", "another program has the port"),
    (PLAIN, "missing files", "huggingface_hub.errors.GatedRepoError: 401 Client Error. Cannot access gated repo for url "
     "https://huggingface.co/meta-llama/x. Access to model x is restricted.", "accept its licence"),
    (PLAIN, "wrong argument", "launch_server.py: error: unrecognized arguments: --enable-foo", "engine.extra_args"),
    (PLAIN, "no GPU", "RuntimeError: No CUDA GPUs are available", "nvidia-smi"),
    (PLAIN, "no GPU", "RuntimeError: The NVIDIA driver on your system is too old (found version 12020).", "nvidia-smi"),
    (SGLANG, "watchdog", "[2026-11-25 03:16:35] Scheduler watchdog timeout (self.watchdog_timeout=300, self.soft=False)",
     "took too long"),
    (PLAIN, "shared memory", "OSError: [Errno 28] No space left on device: '/dev/shm/psm_1'", "--shm-size"),
    (PLAIN, "model not supported", "ValueError: Model architectures ['NewForCausalLM'] are not supported for now.",
     "does not know the model"),
]  # fmt: skip


@pytest.mark.parametrize(("log", "kind", "error", "advice"), CASES)
def test_the_cause_and_a_remedy_are_found(log: str, kind: str, error: str, advice: str) -> None:
    cause = diagnose(log.format(error=error), *OWN[log])
    assert cause is not None
    assert cause.kind == kind
    assert advice in cause.advice
    assert cause.line[:40] in error
    text = why(log.format(error=error), *OWN[log])
    assert text.startswith(f"{kind}: ")
    assert "sigquit" not in text
    assert "Engine core initialization" not in text


def test_every_rule_has_a_case() -> None:
    assert {rule.kind for rule in RULES} == {kind for _, kind, _, _ in CASES}


def test_a_log_without_a_known_cause_is_explained_by_its_exception() -> None:
    log = SGLANG.format(error="KeyError: 'model.layers.0.foo'")
    assert diagnose(log) is None
    assert last_words(log) == "KeyError: 'model.layers.0.foo'"
    assert why(log) == "KeyError: 'model.layers.0.foo'"


def test_a_log_without_an_exception_is_quoted_by_its_last_lines() -> None:
    assert last_words("one\n\ntwo\r50 %\r100 %\nthree\n", lines=2) == "100 % | three"


def test_a_warning_is_no_cause_where_something_was_raised() -> None:
    warned = "[2026-11-25 03:16:04] The CUDA_HOME environment variable is not set, skipping\n"
    cause = diagnose(warned + SGLANG.format(error="RuntimeError: CUDA error: out of memory"))
    assert cause is not None
    assert cause.kind == "out of memory"


def test_a_healthy_log_has_no_cause() -> None:
    healthy = """[2026-11-25 03:16:31] Load weight end. elapsed=3.09 s, type=Qwen3ForCausalLM, avail mem=60.1 GB, mem usage=15.27 GB.
[2026-11-25 03:16:40] max_total_num_tokens=375210, chunked_prefill_size=8192, max_prefill_tokens=16384, context_len=40960
[2026-11-25 03:16:41] The server is fired up and ready to roll!
"""
    assert diagnose(healthy) is None


@given(st.text())
def test_any_text_can_be_diagnosed(text: str) -> None:
    diagnose(text)
    assert "\n" not in why(text)
    assert all(line == line.strip() and line for line in lines_of(text))
