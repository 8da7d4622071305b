"""Checks that SGLang's argument parser accepts every flag that the engine can emit, by its full name."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from bench.engines import Launch, sglang
from bench.records.record import Yarn
from bench.toolchains.toolchain import variables

PARSE = """
import argparse, json, sys
from sglang.srt.server_args import ServerArgs
parser = argparse.ArgumentParser(exit_on_error=False)
ServerArgs.add_cli_args(parser)
known = parser._option_string_actions
errors = []
for argv in json.load(sys.stdin):
    errors += [f"{word}: no such flag" for word in argv if word.startswith("--") and word not in known]
    try:
        parser.parse_args(argv)
    except (argparse.ArgumentError, SystemExit) as error:
        errors.append(f"{error}: {argv}")
print(json.dumps(errors))
"""
EVERYTHING: dict[str, Any] = {
    "dtype": "bfloat16", "kv_cache_dtype": "fp8_e4m3", "context_length": 140000,
    "max_total_tokens": 200000, "max_running_requests": 64,
    "chunked_prefill_size": 8192, "mixed_chunk": True, "tp_size": 2, "dp_size": 2, "pp_size": 2, "ep_size": 2,
    "nnodes": 2, "node_rank": 1, "dist_init_addr": "10.0.0.1:5000", "attention_backend": "triton",
    "deterministic": True, "random_seed": 1, "skip_tokenizer_init": True, "incremental_streaming": True,
    "metrics": True, "extra_args": ["--log-level", "warning"],
}  # fmt: skip
"""Values that make the engine emit all of its flags."""


def rejected(name: str, interpreter: str, plain: dict[str, Any]) -> tuple[list[str], int]:
    """Return (what the parser rejects, number of flags tried).

    Args:
        name: the toolchain.
        interpreter: the toolchain's Python.
        plain: the engine's fields, from its config.
    """
    launch = Launch(Path("checkpoint"), 4096, 30000, yarn=Yarn(factor=4, original=32768))
    configs = [{**plain, "device": device, **more} for device in ("cuda", "cpu") for more in ({}, EVERYTHING)]
    commands = [
        sglang.SGLang(name="sglang", config=sglang.Config.model_validate(config)).command(interpreter, launch)[3:]
        for config in configs
    ]  # after the interpreter, its own flag and the launcher
    done = subprocess.run(
        [interpreter, "-c", PARSE],
        input=json.dumps(commands),
        env={**os.environ, **variables(name)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    if done.returncode != 0:
        return [done.stderr.strip().splitlines()[-1]], 0
    flags = {word for argv in commands for word in argv if word.startswith("--")}
    return json.loads(done.stdout.strip().splitlines()[-1]), len(flags)
