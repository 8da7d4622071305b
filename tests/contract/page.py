"""Writes docs/contract-sglang.md: what was checked when, with which versions, and what came out."""

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

quantbench measures SGLang on GPUs. What does not need one is checked against the real server on a CPU: that
quantbench starts it with flags it knows, reads its answers rightly, sweeps and scores on it, and that the reference
server, which stands in for it in the tests, answers in the same form.

```
make contract-sglang                    # check, and write this page
make contract-sglang CONTRACT=--record  # record its answers anew first, after another version was pinned
```

It builds the toolchain `sglang-cpu` where that is missing ({disk:.1f} GB). Exit code 1 means that a check failed; which
one is told, and stands below. **The speed of SGLang on a CPU says nothing about SGLang on a GPU**, and no figure of it
is kept. It loads BF16 checkpoints only, so nothing here proves a quantized one.

## Last run
"""
ANSWERS = """
## Recorded answers

`tests/fixtures/sglang/NAME.json` holds each request with the real server's answer, and `schema.json` the JSON type of
every field in them. One function, `tests.contract.hold.differences`, holds a server to them: the real one in the run
above, the reference server in `tests/contract/test_reference.py`. Recorded streams are played back to quantbench's
client over HTTP there as well.
"""


@dataclass(frozen=True)
class Result:
    """What one check came to."""

    check: str
    wrong: tuple[str, ...]
    found: str
    """What was checked or found, for people."""


def write(results: Sequence[Result], versions: Mapping[str, str], known: Sequence[Difference], disk_bytes: int) -> None:
    """Write the page."""
    lines = [
        HEAD.format(disk=disk_bytes / 1e9),
        f"{datetime.now(UTC):%Y-%m-%d}, quantbench {__version__}, {psutil.cpu_count()} CPU cores, no GPU, "
        f"{platform.system()} {platform.machine()}, Python {platform.python_version()}; in the toolchain: "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + ". Model: SmolLM2-135M-Instruct in BF16.",
        "",
        "| check | result | what was seen |",
        "|---|---|---|",
        *(f"| {one.check} | {'**failed**' if one.wrong else 'passed'} | {_cell(one)} |" for one in results),
        ANSWERS,
        "## Known differences",
        "",
        "Each is asked of both servers, of the real one in the run above, so that this list stays true.",
        "",
        "| sent | SGLang answers | the reference server answers | what quantbench does |",
        "|---|---|---|---|",
        *(f"| {one.what} | {one.real} | {one.reference} | {one.matters} |" for one in known),
        f"| {UNKNOWN_TOKEN} | nothing: the whole server ends | HTTP 400 | prompts are drawn from the tokenizer's ids |",
        "| a prompt to be scored, and no new token | `output_top_logprobs` of the token that would come next | none | "
        "nothing reads it |",
        "| OpenAI's routes | as recorded | HTTP 404 | `engine=attach` speaks them to other servers |",
        "| a request without the API key, where one is set | HTTP 401, `/health` excepted | – | every request carries "
        "it; `/server_info` tells the key, which is left out of the record |",
        "",
        "A prompt that is too long is HTTP 400 on both; in a stream it is HTTP 200 with an error event on both.",
        "",
    ]
    PAGE.write_text("\n".join(lines))


def _cell(result: Result) -> str:
    text = "; ".join(result.wrong) if result.wrong else result.found
    return text.replace("|", "\\|").replace("\n", " ")[:600]
