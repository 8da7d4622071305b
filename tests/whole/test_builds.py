"""A checkpoint is never made twice and never incomplete: kills, concurrent builds, a full disk, too little memory."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench.records.record import RunRecord
from quantize.checkpoint import PREDICTIONS_NAME, Manifest, read_manifest
from quantize.predictions import Predictions, fidelity_of
from tests.support.paths import ROOT
from tests.support.program import EVERY, Cli
from tests.support.runs import records, wait_until

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]
QUANT = ["+model=tiny-qwen3", "quant=gptq-int4", "calibration=demo", "workload=none", "accuracy=none"]
SIMPLE = ["+model=tiny-qwen3", "quant=rtn-int8", "workload=none", "accuracy=none"]
"""Without calibration, where that does not matter."""


@pytest.fixture(scope="module")
def tiny(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the 16-bit checkpoint of tiny-qwen3 in the cache that all tests share."""
    cli = Cli(cache, tmp_path_factory.mktemp("tiny"))
    assert cli("+model=tiny-qwen3", "workload=none", "accuracy=none").returncode == 0
    return source_of(cli)


@pytest.fixture
def own(tiny: Path, tmp_path: Path) -> Cli:
    """Return the program with a separate cache that already contains the 16-bit checkpoint."""
    pytest.importorskip("llmcompressor")
    shutil.copytree(tiny, tmp_path / "cache" / "sources" / tiny.name)
    return Cli(tmp_path / "cache", tmp_path)


def source_of(cli: Cli) -> Path:
    """Return the 16-bit checkpoint of tiny-qwen3."""
    (folder,) = [path for path in (checkpoints(cli).parent / "sources").glob("tiny-qwen3-[0-9a-f]*") if path.is_dir()]
    return folder


def start(cli: Cli, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(cli.argv(*arguments), cwd=cli.folder, env=cli.env, stderr=subprocess.PIPE, text=True)


def kill_all(run: subprocess.Popen[str]) -> None:
    run.send_signal(signal.SIGKILL)
    run.communicate()


def checkpoints(cli: Cli) -> Path:
    return Path(cli.env["QUANTBENCH_CACHE"]) / "checkpoints"


def leftovers(cli: Cli) -> list[str]:
    """Return everything next to the published folders, except locks."""
    return [path.name for path in checkpoints(cli).iterdir() if path.suffix and path.suffix != ".lock"]


def published(cli: Cli) -> Path:
    (folder,) = [path for path in checkpoints(cli).glob("tiny-qwen3-*-int?-*") if not path.suffix]
    return folder


def test_killed_while_the_weights_are_made_the_next_run_starts_over(own: Cli) -> None:
    run = start(own, *QUANT)
    wait_until(lambda: list(checkpoints(own).glob("*.work")) if checkpoints(own).exists() else False)
    kill_all(run)
    assert not list(checkpoints(own).glob("*.made"))
    again = own(*QUANT)
    assert again.returncode == 0, again.stderr
    assert published(own).is_dir()
    assert not leftovers(own)


def test_killed_during_the_proof_the_next_run_resumes_with_the_weights(own: Cli) -> None:
    run = start(own, *QUANT)
    wait_until(lambda: list(checkpoints(own).glob("*.cost")) if checkpoints(own).exists() else False)
    kill_all(run)
    (work,) = checkpoints(own).glob("*.work")
    before = (work / "model.safetensors").stat()
    again = own(*QUANT)
    assert again.returncode == 0, again.stderr
    after = (published(own) / "model.safetensors").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert not leftovers(own)
    (record,) = [run for run in records(own.folder) if run.finished_at]
    assert record.checkpoint.calibration.n_samples == len(record.checkpoint.calibration.sample_sha256) > 0


def test_of_two_concurrent_builds_one_works_and_the_other_waits(own: Cli) -> None:
    runs = [start(own, *SIMPLE, f"results_dir=results{number}") for number in range(2)]
    outputs = [run.communicate(timeout=300)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    files = [next(own.folder.glob(f"results{number}/runs/*/record.json")) for number in range(2)]
    checkpoints = [RunRecord.model_validate_json(file.read_bytes()).checkpoint for file in files]
    assert checkpoints[0] == checkpoints[1]
    assert not leftovers(own)


def test_a_checkpoint_above_its_ceiling_is_set_aside_and_made_only_once(own: Cli) -> None:
    refused = own(*SIMPLE, "quant.max_kl=1e-9")
    assert refused.returncode == 1
    assert "above the ceiling of 1e-09" in refused.stderr
    assert "quant.max_kl=" in refused.stderr
    assert "Traceback" not in refused.stderr
    (aside,) = checkpoints(own).glob("*.refused")
    weights = (aside / "model.safetensors").stat()
    assert not (aside / "quantbench_manifest.json").exists()
    accepted = own(*SIMPLE)
    assert accepted.returncode == 0, accepted.stderr
    assert (published(own) / "model.safetensors").stat().st_ino == weights.st_ino
    assert not leftovers(own)


def test_another_held_out_text_is_proven_without_making_the_weights_again(own: Cli) -> None:
    first = own(*SIMPLE)
    assert first.returncode == 0, first.stderr
    weights = (published(own) / "model.safetensors").stat()
    second = own(*SIMPLE, "calibration.heldout.n_samples=3")
    assert second.returncode == 0, second.stderr
    assert "proven on other text or with other libraries" in second.stderr
    after = (published(own) / "model.safetensors").stat()
    assert (after.st_ino, after.st_mtime_ns) == (weights.st_ino, weights.st_mtime_ns)
    old, new = sorted((run.checkpoint for run in records(own.folder)), key=lambda made: -made.fidelity.n_tokens)
    assert (new.fidelity.documents, old.key, old.files, old.build_s) == (3, new.key, new.files, new.build_s)
    assert old.fidelity.text_sha256 != new.fidelity.text_sha256
    assert read_manifest(published(own)) == new
    kept = Predictions.load(published(own) / PREDICTIONS_NAME)
    assert fidelity_of(kept, rounding_kl_nats=new.fidelity.rounding_kl_nats) == new.fidelity


def test_weights_that_changed_since_they_were_published_are_not_proven_again(own: Cli) -> None:
    assert own(*SIMPLE).returncode == 0
    file = published(own) / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    done = own(*SIMPLE, "calibration.heldout.n_samples=3")
    assert done.returncode == 1
    assert "model.safetensors has changed since it was published" in done.stderr
    assert "Traceback" not in done.stderr


def small_disk(place: Path, size: str) -> Path:
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(place)], capture_output=True)
    if done.returncode != 0:
        pytest.skip("no small file system can be mounted here")
    return place


def write_job(cli: Cli, folder: Path, target: Path) -> Path:
    """Write a job for the worker: tiny-qwen3 rounded to 8 bits."""
    source = source_of(cli)
    manifest = json.loads((source / "quantbench_manifest.json").read_bytes())
    job = {
        "stage": "quantize", "module": "rtn", "identity": {}, "release": None, "key": manifest["key"],
        "config": {
            "ignore": ["lm_head"], "max_kl": 9, "bits": 8, "symmetric": True, "group_size": None,
            "group_size_fallback": [],
        },
        "architecture": {
            "layers": 2, "hidden_size": 128, "intermediate_size": 384, "heads": 2, "kv_heads": 1, "head_dim": 128,
            "vocab_size": 2048, "tied_embeddings": True,
        },
        "seed": 0, "heldout": {"set": "embedded", "n_samples": 1, "max_seq_len": 64},
        "interpreter": sys.executable, "source": str(source), "target": str(target), "libraries": {},
        "proof_key": None, "proof_libraries": {},
    }  # fmt: skip
    file = folder / "job.json"
    file.write_text(json.dumps(job))
    return file


def work(arguments: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a worker, which ends when its standard input closes."""
    parents_end, own_end = os.pipe()
    argv = [sys.executable, *arguments]
    done = subprocess.run(argv, cwd=ROOT, env=env, stdin=parents_end, capture_output=True, text=True)
    os.close(own_end)
    os.close(parents_end)
    return done


def test_a_full_disk_gets_one_line_and_publishes_nothing(own: Cli, tmp_path: Path) -> None:
    place = small_disk(tmp_path / "small", "700k")
    try:
        file = write_job(own, tmp_path, place / "target")
        done = work(["-m", "quantize.worker", str(file)], {**own.env, "TMPDIR": str(tmp_path)})
        assert done.returncode == 1, done.stderr
        assert file.with_suffix(".error").read_text().startswith("the disk is full")
        assert not (place / "target").exists()
        assert not (place / "target.work").exists()
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_too_little_disk_is_reported_with_figures_before_the_build(cache: Path, tmp_path: Path) -> None:
    place = small_disk(tmp_path / "small", "1m")
    try:
        done = Cli(place, tmp_path)("+model=tiny-qwen3", "workload=none", "accuracy=none")
        assert done.returncode == 1
        assert re.search(r"source weights of tiny-qwen3 needs 1\.\d MB on the disk", done.stderr)
        assert "QUANTBENCH_CACHE" in done.stderr
        assert "Traceback" not in done.stderr
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_too_little_memory_is_reported_with_figures_before_the_build(own: Cli) -> None:
    command = ["bash", "-c", 'ulimit -v 1400000; exec "$@"', "-", *own.argv(*QUANT)]
    done = subprocess.run(command, cwd=own.folder, env=own.env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert re.search(r"needs about 1\.[5-9] GB of memory", done.stderr)
    assert "and 1.4 GB is free" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(checkpoints(own).glob("*.work")) if checkpoints(own).exists() else True


BIG = """
import json, shutil, sys, torch
from pathlib import Path
from safetensors.torch import save_file
source, target, layers = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors", "quantbench*"))
hidden, inner, head = 2048, 8192, 128
config = json.loads((target / "config.json").read_text())
config |= {"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": 16,
           "num_key_value_heads": 4, "head_dim": head, "layer_types": ["full_attention"] * layers}
(target / "config.json").write_text(json.dumps(config))
make = torch.Generator().manual_seed(0)
def random(*shape): return (torch.randn(*shape, generator=make) * 0.02).bfloat16()
ones = lambda width: torch.ones(width).bfloat16()
layer = {"self_attn.q_proj": random(2048, hidden), "self_attn.k_proj": random(512, hidden),
         "self_attn.v_proj": random(512, hidden), "self_attn.o_proj": random(hidden, 2048),
         "mlp.gate_proj": random(inner, hidden), "mlp.up_proj": random(inner, hidden),
         "mlp.down_proj": random(hidden, inner), "self_attn.q_norm": ones(head), "self_attn.k_norm": ones(head),
         "input_layernorm": ones(hidden), "post_attention_layernorm": ones(hidden)}
index = {}
def save(number, tensors):
    name = f"model-{number:05d}-of-{layers + 1:05d}.safetensors"
    save_file(tensors, target / name, metadata={"format": "pt"})
    index.update(dict.fromkeys(tensors, name))
save(1, {"model.embed_tokens.weight": random(2048, hidden), "model.norm.weight": ones(hidden)})
for number in range(layers):
    save(number + 2, {f"model.layers.{number}.{name}.weight": tensor for name, tensor in layer.items()})
(target / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
"""
LIMIT_BYTES = 3_300_000_000


def test_a_checkpoint_larger_than_memory_is_quantized_and_proven_within_it(own: Cli, tmp_path: Path) -> None:
    if not EVERY:
        pytest.skip("takes four minutes and 12 GB of disk: make test-all")
    source = source_of(own)
    subprocess.run([sys.executable, "-c", BIG, str(source), str(tmp_path / "big"), "29"], check=True)
    run = own.argv(
        "+model=local", f"model.source.path={tmp_path / 'big'}", "quant=fp8", "calibration.heldout.n_samples=1",
        "workload=none", "accuracy=none",
    )  # fmt: skip
    command = ["bash", "-c", f'ulimit -v {LIMIT_BYTES // 1024}; exec "$@"', "-", *run]
    env = {**own.env, "OMP_NUM_THREADS": str(min(4, os.cpu_count() or 1))}
    done = subprocess.run(command, cwd=own.folder, env=env, capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stderr
    (record,) = records(own.folder)
    checkpoint = record.checkpoint
    assert record.variant.model == "big"
    source_bytes = sum(file.stat().st_size for file in (tmp_path / "big").glob("*.safetensors"))
    assert source_bytes > LIMIT_BYTES > checkpoint.peak_rss_bytes
    assert checkpoint.proof_peak_rss_bytes < LIMIT_BYTES
    assert checkpoint.fidelity.kl_nats < 0.05
    assert "canary prompts were not run: the whole model does not fit into memory" in checkpoint.proof_notes


SMALL_GPU = """
import sys, torch
torch.cuda.is_available = lambda: True
torch.cuda.mem_get_info = lambda device=None: (1_000_000, 80_000_000_000)
from quantize import worker
sys.exit(worker.main(sys.argv[1:]))
"""


def test_a_gpu_without_room_leaves_the_proof_to_the_cpu(own: Cli, tmp_path: Path) -> None:
    target = tmp_path / "target"
    done = work(["-c", SMALL_GPU, str(write_job(own, tmp_path, target))], own.env)
    assert done.returncode == 0, done.stderr
    manifest = Manifest.model_validate_json((target / "quantbench_manifest.json").read_bytes())
    assert manifest.fidelity is not None
    assert manifest.canaries is not None
    assert any(note.startswith("the proof ran on the CPU: a decoder layer of each") for note in manifest.proof_notes)


OWN = """
import os
from pathlib import Path
from transformers import Qwen3Config, Qwen3ForCausalLM
Path(os.environ["MARK"]).touch()
class OwnConfig(Qwen3Config):
    pass
class OwnForCausalLM(Qwen3ForCausalLM):
    config_class = OwnConfig
"""


def test_a_checkpoints_own_code_runs_only_if_it_is_trusted(own: Cli, tmp_path: Path) -> None:
    source = source_of(own)
    folder = tmp_path / "mine"
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("quantbench*"))
    (folder / "own.py").write_text(OWN)
    file = folder / "config.json"
    auto = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"auto_map": auto}))
    mark = tmp_path / "mark"
    command = ["+model=local", f"model.source.path={folder}", "quant=rtn-int8", "workload=none", "accuracy=none"]
    env = {"MARK": str(mark), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    refused = own(*command, **env)
    assert refused.returncode == 1
    assert "model.source.trust_remote_code=true" in refused.stderr
    assert not mark.exists()
    trusted = own(*command, "model.source.trust_remote_code=true", **env)
    assert trusted.returncode == 0, trusted.stderr
    assert mark.exists()


OFFLOADED = """
import sys
from pathlib import Path
from quantize import step
from quantize.backends import llmcompressor
if sys.argv[3] == "disk":
    llmcompressor.available_memory = lambda: llmcompressor.RESERVE_BYTES + 400_000
job = step.Step.model_validate_json(Path(sys.argv[1]).read_bytes())
step.make(job.model_copy(update={"target": Path(sys.argv[2])}))
"""


def test_weights_that_do_not_fit_stay_on_disk_and_calibrate_to_the_same_result(own: Cli, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    job = {
        "method": "gptq",
        "config": {
            "ignore": ["lm_head"], "max_kl": 9, "bits": 4, "symmetric": True, "group_size": 64,
            "group_size_fallback": [], "damp": 0.01, "act_order": "static",
            "calibration": {"set": "embedded", "n_samples": 4, "max_seq_len": 64},
        },
        "architecture": {
            "layers": 2, "hidden_size": 128, "intermediate_size": 384, "heads": 2, "kv_heads": 1, "head_dim": 128,
            "vocab_size": 2048, "tied_embeddings": True,
        },
        "source": str(source_of(own)), "target": "", 
        "samples": [[(7 * i + n) % 2000 for i in range(64)] for n in range(4)],
    }  # fmt: skip
    file = tmp_path / "step.json"
    file.write_text(json.dumps(job))
    for where in ("memory", "disk"):
        argv = [sys.executable, "-c", OFFLOADED, str(file), str(tmp_path / where), where]
        done = subprocess.run(argv, cwd=ROOT, env={**own.env, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
    first, second = (load_file(tmp_path / where / "model.safetensors") for where in ("memory", "disk"))
    assert first.keys() == second.keys()
    assert all((first[name] == second[name]).all() for name in first)
    assert not (tmp_path / "disk.offload").exists()
