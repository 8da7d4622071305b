"""Determine from a server's log why it ended and what to change. Pure functions.

The patterns match messages that torch, NCCL, CUDA and Hugging Face's libraries print in any server; an engine adds its
own by kind (:class:`bench.engines.Engine`). The first matching rule wins, so root causes come first: a missing kernel
also breaks NCCL, but not vice versa.
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
    """An error found in a log."""

    kind: Kind
    line: str
    """The log line that reports it, without its time stamp."""
    advice: str
    """What to change, naming the config field."""


@dataclass(frozen=True)
class _Rule:
    kind: Kind
    pattern: str
    advice: str


NEVER = r"(?!)"
"""Matches nothing, for kinds that only engines report."""
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
        "the checkpoint is incomplete or access is denied: accept its licence on the hub and log in with "
        "`hf auth login`, or delete its folder in the cache so that it is built again",
    ),
    _Rule(
        "wrong argument",
        r"error: (?:unrecognized arguments|argument -|ambiguous option|the following arguments are required)",
        "this version does not know the argument: check engine.extra_args, or build the pinned toolchain",
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
        "no usable GPU: check nvidia-smi and CUDA_VISIBLE_DEVICES, or choose another engine=",
    ),
    _Rule(
        "missing kernel",
        r"\.so[.\d]*: (?:undefined symbol|cannot open shared object)|CUDA_HOME environment variable is not set"
        r"|(?:Could not find|No such file or directory:) '?(?:nvcc|ninja)",
        "the environment's kernels do not match this machine: quantbench toolchain check NAME lists them; "
        "kernels that are compiled on first use need the CUDA toolkit and CUDA_HOME",
    ),
    _Rule(
        "sizes do not divide",
        r"is not divisible by|must be divisible by|is not a multiple of",
        "this many GPUs do not divide the model's heads or layers: split it over a different number",
    ),
    _Rule(
        "no room for keys",
        NEVER,
        "the weights leave too little memory for keys and values: lower model.context_length, or use more GPUs",
    ),
    _Rule(
        "out of memory",
        r"OutOfMemoryError|CUDA out of memory|CUDA error: out of memory|out of memory\. Try to"
        r"|DefaultCPUAllocator: can't allocate memory|MemoryError",
        "check with nvidia-smi whether another program uses the GPU; otherwise use more GPUs",
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
        "the GPUs cannot communicate with each other: NCCL_DEBUG=INFO shows why; check that every node is running",
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
    """Return the non-empty lines without their time stamps; of an overwritten line, the last version."""
    final = (line.split("\r")[-1].strip() for line in log.splitlines())
    return [stripped for line in final if (stripped := _STAMP.sub("", line).strip())]


def diagnose(
    log: str, patterns: Mapping[Kind, str] = NOTHING, advice: Mapping[Kind, str] = NOTHING
) -> Diagnosis | None:
    """Return what went wrong according to a server's log; None if it contains no known message.

    Exceptions take precedence over printed lines, because warnings often mention things that broke nothing.

    Args:
        log: the server's output.
        patterns: the engine's own messages, by kind.
        advice: the engine's own advice, by kind.
    """
    lines = lines_of(log)
    for candidates in ([line for line in lines if _EXCEPTION.match(line)], lines):
        for rule in RULES:
            pattern = f"{rule.pattern}|{patterns[rule.kind]}" if rule.kind in patterns else rule.pattern
            line = next((line for line in candidates if re.search(pattern, line, re.IGNORECASE)), None)
            if line:
                return Diagnosis(rule.kind, _cut(line), advice.get(rule.kind, rule.advice))
    return None


def last_words(log: str, lines: int = 4) -> str:
    """Return the lines of a log that say why a process ended, joined by `` | ``.

    These are its last exceptions, because later output (tracebacks of other processes, shutdown messages) explains
    nothing; or else its last lines.
    """
    relevant = [line for line in lines_of(log) if not _NOISE.search(line)]
    exceptions = [line for line in relevant if _EXCEPTION.match(line)]
    last = list(dict.fromkeys(exceptions))[-2:] if exceptions else relevant[-lines:]
    return " | ".join(_cut(line) for line in last)


def why(log: str, patterns: Mapping[Kind, str] = NOTHING, advice: Mapping[Kind, str] = NOTHING) -> str:
    """Return one line that says why a server ended and what to change, according to its log; see `diagnose`."""
    diagnosis = diagnose(log, patterns, advice)
    words = last_words(log)
    if diagnosis is None:
        return words
    quoted = words if diagnosis.line in words else diagnosis.line
    return f"{diagnosis.kind}: {quoted}; {diagnosis.advice}"


def _cut(line: str, width: int = 400) -> str:
    return line if len(line) <= width else f"{line[:width]}…"
