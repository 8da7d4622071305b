"""Why a server ended, and what to change, read from its log. Pure: text in, words out.

The patterns are messages that torch, NCCL, CUDA and Hugging Face's libraries print, in whichever server they run; an
engine adds its own by kind (:class:`bench.engines.Engine`). The first rule that finds its message wins, so what
explains most comes first: a missing kernel also breaks NCCL, never the other way round.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Kind = Literal[
    "port taken", "missing files", "wrong argument", "context too long", "quantization not supported",
    "model not supported", "GPU not supported", "no GPU", "missing kernel", "sizes do not divide", "no room for keys",
    "out of memory", "shared memory", "crash on the GPU", "NCCL", "watchdog",
]  # fmt: skip


NOTHING: Mapping[Kind, str] = MappingProxyType({})


@dataclass(frozen=True)
class Diagnosis:
    """What a log says went wrong."""

    kind: Kind
    line: str
    """The line that says so, without its time stamp."""
    advice: str
    """What to change, with the field to type."""


@dataclass(frozen=True)
class _Rule:
    kind: Kind
    pattern: str
    advice: str


NEVER = r"(?!)"
"""Matches nothing: only engines print messages of this kind."""
RULES = (
    _Rule(
        "port taken",
        r"address already in use",
        "another program has the port; try again",
    ),
    _Rule(
        "missing files",
        r"gated repo|Repository Not Found|(?:401|403) Client Error|does not appear to have a file named"
        r"|Cannot find any model weights|Incorrect path_or_model_id"
        r"|No such file or directory: .*\.(?:safetensors|json)",
        "the checkpoint is not complete or may not be read: accept its licence on the hub and log in with "
        "`hf auth login`, or delete its folder in the cache so that it is built anew",
    ),
    _Rule(
        "wrong argument",
        r"error: (?:unrecognized arguments|argument -|ambiguous option|the following arguments are required)",
        "this version does not know the argument: look at engine.extra_args, or build the pinned toolchain",
    ),
    _Rule(
        "context too long",
        NEVER,
        "set model.context_length to what the model was trained for, or stretch it with context=131k",
    ),
    _Rule(
        "quantization not supported",
        r"Unknown quantization method|does not match the quantization|is not supported for quantization"
        r"|No compressed-tensors compatible scheme was found|Unsupported (?:quantization|quant_method)",
        "this engine has no code for the checkpoint's format: choose another quant= or another engine=",
    ),
    _Rule(
        "model not supported",
        r"Model architectures? .*(?:not supported)"
        r"|does not recognize this architecture|trust_remote_code=True",
        "this version of the engine does not know the model: choose another engine=",
    ),
    _Rule(
        "GPU not supported",
        r"no kernel image is available|Minimum capability: \d|requires compute capability|invalid device function"
        r"|is not compatible with the current PyTorch installation|only supported on .*(?:sm_?\d+|compute capability)",
        "this GPU has no kernels for the format: choose another quant= (FP8 needs compute capability 8.9, FP4 10.0)",
    ),
    _Rule(
        "no GPU",
        r"No CUDA GPUs are available|Found no NVIDIA driver|NVIDIA driver on your system is too old"
        r"|driver version is insufficient|Torch not compiled with CUDA enabled|no CUDA device",
        "no usable GPU: look at nvidia-smi and CUDA_VISIBLE_DEVICES, or take engine=transformers",
    ),
    _Rule(
        "missing kernel",
        r"\.so[.\d]*: (?:undefined symbol|cannot open shared object)|CUDA_HOME environment variable is not set"
        r"|(?:Could not find|No such file or directory:) '?(?:nvcc|ninja)",
        "the environment's kernels do not fit this machine: quantbench toolchain check NAME tells which; "
        "kernels that are compiled on first use need the CUDA toolkit and CUDA_HOME",
    ),
    _Rule(
        "sizes do not divide",
        r"is not divisible by|must be divisible by|is not a multiple of",
        "this many GPUs do not divide the model's heads or layers: split it over another number",
    ),
    _Rule(
        "no room for keys",
        NEVER,
        "after the weights there is too little left for keys and values: lower model.context_length, or use more GPUs",
    ),
    _Rule(
        "out of memory",
        r"OutOfMemoryError|CUDA out of memory|CUDA error: out of memory|out of memory\. Try to"
        r"|DefaultCPUAllocator: can't allocate memory|MemoryError",
        "look with nvidia-smi whether another program holds the GPU; else use more GPUs",
    ),
    _Rule(
        "shared memory",
        r"No space left on device|Bus error|/dev/shm",
        "shared memory or the disk is full: df -h /dev/shm; a container needs --shm-size=16g or --ipc=host",
    ),
    _Rule(
        "crash on the GPU",
        r"illegal memory access|device-side assert triggered|misaligned address|unspecified launch failure",
        "a kernel crashed: try another version of the engine",
    ),
    _Rule(
        "NCCL",
        r"NCCL error|nccl(?:UnhandledCuda|System|Internal|Remote|InvalidUsage)\w*|DistBackendError"
        r"|DistNetworkError|DistStoreError",
        "the GPUs cannot talk to each other: NCCL_DEBUG=INFO shows why; check that every node runs",
    ),
    _Rule(
        "watchdog",
        NEVER,
        "the server stopped itself because one batch took too long: send shorter prompts",
    ),
)

_STAMP = re.compile(
    r"^(?:\([^)]*pid=\d+\) |\[[\d\- :.,A-Z]+[^\]]*\] "
    r"|(?:ERROR|WARNING|CRITICAL|INFO):? +(?:[\d\-]+ [\d:]+ )?(?:\[[^\]]*\] )?"
    r"|\[rank\d+\]:(?:\[[^\]]*\])* ?)+"
)
_EXCEPTION = re.compile(r"^(?:[A-Za-z_][\w]*\.)*[A-Z]\w*(?:Error|Exception|Interrupt|Exit|Timeout)(?:: .+|$)")
_NOISE = re.compile(
    r"sigquit|SIGTERM received|Engine core initialization failed|resource_tracker|leaked \w+ objects|Killed process"
    r"|destroy_process_group|Exception ignored|Traceback \(most recent call last\)|During handling of the above"
    r"|The above exception was the direct cause|^[~^ ]+$|^File \"|^warnings\.warn|KeyboardInterrupt|CancelledError"
    r"|^(?:raise|return|await|self\.|with|yield)\b"
    r"|terminated with \d+|Initialization failed\. Please see the error messages above"
)


def lines_of(log: str) -> list[str]:
    """Return the lines that say something, each without its time stamp; of a line that was overwritten, the last."""
    said = (line.split("\r")[-1].strip() for line in log.splitlines())
    return [stripped for line in said if (stripped := _STAMP.sub("", line).strip())]


def diagnose(
    log: str, patterns: Mapping[Kind, str] = NOTHING, advice: Mapping[Kind, str] = NOTHING
) -> Diagnosis | None:
    """Return what a server's log says went wrong; None if it holds no known message.

    What was raised counts before what was only printed: warnings name many things that broke nothing.

    Args:
        log: what the server printed.
        patterns: the engine's own messages, by what they mean.
        advice: what to change with this engine.
    """
    lines = lines_of(log)
    for chosen in ([line for line in lines if _EXCEPTION.match(line)], lines):
        for rule in RULES:
            pattern = f"{rule.pattern}|{patterns[rule.kind]}" if rule.kind in patterns else rule.pattern
            line = next((line for line in chosen if re.search(pattern, line, re.IGNORECASE)), None)
            if line:
                return Diagnosis(rule.kind, _cut(line), advice.get(rule.kind, rule.advice))
    return None


def last_words(log: str, lines: int = 4) -> str:
    """Return the lines of a log that tell why it ended, joined by `` | ``.

    These are its last exceptions, for what servers print after them (tracebacks of other processes, farewells) says
    nothing; where there is none, its last lines.
    """
    said = [line for line in lines_of(log) if not _NOISE.search(line)]
    raised = [line for line in said if _EXCEPTION.match(line)]
    chosen = list(dict.fromkeys(raised))[-2:] if raised else said[-lines:]
    return " | ".join(_cut(line) for line in chosen)


def why(log: str, patterns: Mapping[Kind, str] = NOTHING, advice: Mapping[Kind, str] = NOTHING) -> str:
    """Return in one line why a server ended and what to change, as far as its log shows; see `diagnose`."""
    diagnosis = diagnose(log, patterns, advice)
    words = last_words(log)
    if diagnosis is None:
        return words
    quoted = words if diagnosis.line in words else diagnosis.line
    return f"{diagnosis.kind}: {quoted}; {diagnosis.advice}"


def _cut(line: str, width: int = 400) -> str:
    return line if len(line) <= width else f"{line[:width]}…"
