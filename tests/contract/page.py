"""Writes docs/contract-sglang.md: the checks of the last run, their results, the date and the versions."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import psutil

from bench import __version__
from tests.contract.known import UNKNOWN_TOKEN, Difference
from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "contract-sglang.md"
HEAD = """# Contract with SGLang

quantbench measures SGLang on GPUs. Everything that needs no GPU is checked against the real server on a CPU: it
accepts the flags that quantbench passes, quantbench reads its answers correctly and completes a sweep and a scoring
on it, and the reference server, which replaces it in the tests, answers in the same form.

```
make contract-sglang                    # check, and write this page
make contract-sglang CONTRACT=--record  # record its answers again first, after another version was pinned
```

It builds the toolchain `sglang-cpu` if that is missing ({disk:.1f} GB). Exit code 1 means that a check failed; its name
is printed and listed below. **The speed of SGLang on a CPU says nothing about SGLang on a GPU**, and is not kept.
On a CPU it loads BF16 checkpoints only, so quantized checkpoints are not covered.

## Last run
"""
ANSWERS = """
## Recorded answers

`tests/fixtures/sglang/NAME.json` has each request with the real server's answer, and `schema.json` the JSON type of
every field in them. One function, `tests.contract.hold.differences`, checks a server's answers against them: those of
the real server in the run above, those of the reference server in `tests/contract/test_reference.py`. That file also
replays recorded streams over HTTP to quantbench's client.
"""


@dataclass(frozen=True)
class Result:
    """The result of one check."""

    check: str
    wrong: tuple[str, ...]
    details: str
    """What was checked or measured, as shown on the page."""


def write(results: Sequence[Result], versions: Mapping[str, str], known: Sequence[Difference], disk_bytes: int) -> None:
    """Write the page."""
    lines = [
        HEAD.format(disk=disk_bytes / 1e9),
        f"{datetime.now(UTC):%Y-%m-%d}, quantbench {__version__}, {psutil.cpu_count()} CPU cores, no GPU, "
        f"{platform.system()} {platform.machine()}, Python {platform.python_version()}; in the toolchain: "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + ". Model: SmolLM2-135M-Instruct in BF16.",
        "",
        "| check | result | details |",
        "|---|---|---|",
        *(f"| {row.check} | {'**failed**' if row.wrong else 'passed'} | {_cell(row)} |" for row in results),
        ANSWERS,
        "## Known differences",
        "",
        "Each request is sent to both servers, to the real one in the run above, so that this list stays true.",
        "",
        "| sent | SGLang answers | the reference server answers | what quantbench does |",
        "|---|---|---|---|",
        *(f"| {row.what} | {row.real} | {row.reference} | {row.matters} |" for row in known),
        f"| {UNKNOWN_TOKEN} | nothing: the whole server ends | HTTP 400 | prompts are drawn from the tokenizer's ids |",
        "| a prompt to be scored, and no new token | `output_top_logprobs` of the token that would come next | none | "
        "nothing reads it |",
        "| OpenAI's routes | as recorded | HTTP 404 | `engine=attach` speaks them to other servers |",
        "| a request without the API key, where one is set | HTTP 401, `/health` excepted | – | every request carries "
        "it; `/server_info` returns the key, which is left out of the record |",
        "",
        "A prompt that is too long is HTTP 400 on both; in a stream it is HTTP 200 with an error event on both.",
        "",
    ]
    PAGE.write_text("\n".join(lines))


def _cell(result: Result) -> str:
    text = "; ".join(result.wrong) if result.wrong else result.details
    return text.replace("|", "\\|").replace("\n", " ")[:600]
