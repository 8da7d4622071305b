"""A proof uses the free memory of its device, and does not need memory for the whole model."""

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from quantize import device  # noqa: E402
from quantize.device import fits_whole, free_memory, proof_device  # noqa: E402

CPU, GPU = torch.device("cpu"), torch.device("cuda")
GB = 10**9


def machine(host: int, gpu: int) -> device.FreeMemory:
    """Return a free-memory function for a machine with these values in GB."""
    return lambda asked: {"cpu": host, "cuda": gpu}[asked.type] * GB


@pytest.mark.parametrize(
    ("size", "where", "host", "gpu", "fits"),
    [
        (470, GPU, 2000, 80, False),  # 235B on one H100 of a host with 2 TB
        (145, GPU, 1000, 80, False),
        (29.5, GPU, 128, 24, False),
        (65.5, GPU, 64, 79, True),  # the host's memory does not decide
        (16.4, GPU, 8, 23.5, True),
        (470, CPU, 1000, 80, True),
        (470, CPU, 900, 800, False),  # nor does the GPU's, where the CPU computes
    ],
)
def test_the_memory_of_the_device_that_computes_decides_whether_a_model_runs_whole(
    size: float, where: "torch.device", host: int, gpu: int, fits: bool
) -> None:
    assert fits_whole(int(size * GB), where, machine(host, gpu)) is fits


@pytest.mark.parametrize(
    ("needed", "gpu", "free_gb", "where"),
    [(22, GPU, 80, GPU), (22, GPU, 22, GPU), (22, GPU, 21, CPU), (22, None, 80, CPU)],
)
def test_a_gpu_too_small_for_one_layer_at_a_time_leaves_the_proof_to_the_cpu(
    needed: int, gpu: "torch.device | None", free_gb: int, where: "torch.device"
) -> None:
    assert proof_device(needed * GB, gpu, machine(1000, free_gb)) == where


def test_free_memory_is_that_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "available_memory", lambda: 7)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda asked: (1000, 5000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda asked: 300)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda asked: 100)
    assert free_memory(CPU) == 7
    assert free_memory(GPU) == 1200


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model of two layers with random weights."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("model")
    config = transformers.Qwen3Config(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        head_dim=16, vocab_size=128, tie_word_embeddings=True, torch_dtype="bfloat16",
    )  # fmt: skip
    transformers.Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("free", [1000, 10**12])
def test_a_model_that_does_not_fit_whole_is_still_compared_layer_by_layer(checkpoint: Path, free: int) -> None:
    from quantize.fidelity import measure

    windows = [[(7 * place + start) % 128 for place in range(32)] for start in range(4)]
    devices = []

    def stated(device: "torch.device") -> int:
        devices.append(device)
        return free

    result = measure(checkpoint, checkpoint, windows, "test", device=CPU, free=stated)
    assert result.predictions.kl_nats.mean() == pytest.approx(0, abs=1e-6)
    assert len(result.layer_errors) == 2 * 7
    assert (result.canaries is not None) is (free == 10**12)
    assert devices == [CPU]


def test_memory_that_another_process_takes_meanwhile_costs_the_canary_prompts_only(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quantize import canaries, fidelity

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(canaries, "_speak", full)
    result = fidelity.measure(checkpoint, checkpoint, [list(range(32))], "test", device=CPU, free=lambda _: 10**12)
    assert result.canaries is None
    assert len(result.predictions.kl_nats) == 32
