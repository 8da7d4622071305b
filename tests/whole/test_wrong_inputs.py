"""Mistakes when quantizing: each gives one clear line with the command to type, and nothing is started."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.model_folders import sharded
from tests.support.program import Cli
from tests.support.tensors import write_safetensors

TINY = "+model=tiny-qwen3"
Case = tuple[list[str], int, str]
"""(arguments, exit code, message); ``{}`` in an argument is the test's own folder."""

COMMAND: dict[str, Case] = {
    "unknown scheme": ([TINY, "quant=fp5"], 2, "did you mean 'fp8'"),
    "unknown backend": (
        [TINY, "quant=gptq-int4", "quant.backend=auto_gptq"],
        2,
        "quant.backend: no backend 'auto_gptq'; did you mean 'auto-gptq'? Known: auto-gptq, autoawq, gptqmodel, ",
    ),
    "backend not built": (
        [TINY, "quant=gptq-int4", "quant.backend=gptqmodel", "calibration=demo"],
        1,
        "quantbench toolchain build gptqmodel",
    ),
    "backend of another method": (
        [TINY, "quant=awq-int4", "quant.backend=auto-gptq"],
        2,
        "use one of autoawq, gptqmodel, llmcompressor",
    ),
    "group that does not divide": (
        ["+model=smollm2-135m", "quant=rtn-int4", "quant.group_size_fallback=[]"],
        2,
        "does not divide the 576 input columns of q_proj; try quant.group_size=64",
    ),
    "blocks that do not fit": (["+model=smollm2-135m", "quant=fp8-block"], 2, "128 x 128 blocks; use quant=fp8"),
    "bits that are none": ([TINY, "quant=rtn-int4", "quant.bits=3"], 2, "quant.bits: input should be 4 or 8"),
    "damp out of range": ([TINY, "quant=gptq-int4", "quant.damp=2"], 2, "quant.damp: input should be less than 1"),
    "negative ceiling": ([TINY, "quant=fp8", "quant.max_kl=-1"], 2, "quant.max_kl: input should be greater than 0"),
    "static without text": ([TINY, "quant=fp8", "quant.scheme=static"], 2, "scheme static needs calibration"),
    "order that is gone": ([TINY, "quant=gptq-int4", "quant.act_order=group"], 2, "use quant.act_order=static"),
    "no official release": (
        [TINY, "quant=fp8", "quant.source=official"],
        2,
        "no release of tiny-qwen3 in fp8 is known",
    ),
    "release nowhere": ([TINY, "quant=fp8", "quant.source={}/nothing"], 1, "no such folder"),
    "release misspelt": ([TINY, "quant=fp8", "quant.source=oficial"], 2, "expected made, official, ORGANISATION/NAME"),
    "no calibration file": ([TINY, "quant=gptq-int4", "calibration.set={}/no.jsonl"], 2, "calibration.set=embedded"),
    "calibration of another kind": ([TINY, "quant=gptq-int4", "calibration.set={}/a.pdf"], 2, "unknown kind of file"),
    "no held-out file": (
        [TINY, "quant=fp8", "calibration.heldout.set={}/no.txt"],
        2,
        "calibration.heldout.set=embedded",
    ),
    "samples too short": ([TINY, "quant=fp8", "calibration.heldout.max_seq_len=8"], 2, "greater than or equal to 16"),
    "code without commit": (
        ["+model=hub", "model.source.repo=A/B", "model.source.trust_remote_code=true"],
        2,
        "pin the commit: model.source.revision=",
    ),
    "no folder": (["+model=local", "model.source.path={}/nothing"], 2, "no such folder; type model.source.path="),
    "no path": (["+model=local"], 2, "missing value: model.source.path"),
}


def one_line(cli: Cli, arguments: list[str], code: int, message: str, **env: str) -> None:
    done = cli(*arguments, "workload=none", "accuracy=none", **env)
    assert done.returncode == code, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if message in line]
    assert "Traceback" not in done.stderr
    assert "error" in line or "failed" in line


@pytest.mark.parametrize("case", COMMAND)
def test_a_wrong_command_gets_one_clear_line(case: str, tmp_path: Path) -> None:
    arguments, code, message = COMMAND[case]
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    cli = Cli(tmp_path / "cache", tmp_path)
    one_line(cli, [argument.replace("{}", str(tmp_path)) for argument in arguments], code, message)


def truncated(folder: Path) -> None:
    shard = next(folder.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-3])


def pickled(folder: Path) -> None:
    for shard in folder.glob("*.safetensors*"):
        shard.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"x")


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def shard_missing(folder: Path) -> None:
    next(folder.glob("*.safetensors")).unlink()


def without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def changed(**fields: object) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | fields))

    return apply


FOLDER: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated shard": (truncated, "truncated"),
    "pickled": (pickled, "pickled checkpoints are not supported"),
    "no tokenizer": (no_tokenizer, "tokenizer"),
    "shard missing": (shard_missing, ".safetensors"),
    "no config": (without_config, "config.json"),
    "another architecture": (changed(model_type="mamba2"), "mamba2"),
    "quantized already": (changed(quantization_config={"quant_method": "gptq"}), "quant.source="),
    "code of its own": (changed(auto_map={"AutoModel": "modeling.Own"}), "trust_remote_code"),
}


@pytest.mark.parametrize("case", FOLDER)
def test_a_damaged_folder_gets_one_clear_line(case: str, tmp_path: Path) -> None:
    damage, message = FOLDER[case]
    folder = sharded(tmp_path / "my-model")
    damage(folder)
    done = Cli(tmp_path / "cache", tmp_path)(
        "+model=local", f"model.source.path={folder}", "quant=fp8", "workload=none", "accuracy=none"
    )
    assert done.returncode in (1, 2), done.stderr
    assert len([line for line in done.stderr.splitlines() if message in line and "error" in line]) == 1
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("results/runs/*"))


def broken_rows(folder: Path) -> Path:
    file = folder / "rows.jsonl"
    file.write_text('{"text": "one"}\nnot json\n')
    return file


def test_a_broken_text_gets_one_clear_line(cache: Path, tmp_path: Path) -> None:
    pytest.importorskip("llmcompressor")
    text = f"calibration.set={broken_rows(tmp_path)}"
    one_line(Cli(cache, tmp_path), [TINY, "quant=gptq-int4", text], 1, "rows.jsonl:2")


def test_an_unwritable_cache_gets_one_clear_line(tmp_path: Path) -> None:
    one_line(Cli(Path("/proc/no"), tmp_path), [TINY, "quant=fp8"], 2, "choose another folder with QUANTBENCH_CACHE")


def test_a_damaged_release_gets_one_clear_line(cache: Path, tmp_path: Path) -> None:
    release = sharded(tmp_path / "release")
    changed(quantization_config={"quant_method": "bitsandbytes"})(release)
    one_line(Cli(cache, tmp_path), [TINY, "quant=fp8", f"quant.source={release}"], 1, "'bitsandbytes' of this kind")
    shutil.rmtree(release)
    write_safetensors(sharded(release) / "extra.safetensors", {"x": ("BF16", (1,))})
    one_line(Cli(cache, tmp_path), [TINY, "quant=fp8", f"quant.source={release}"], 1, "quantiz")
