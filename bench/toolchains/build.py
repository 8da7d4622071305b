"""Build and check the environments of toolchains, with the standard ``venv`` and ``pip``.

An environment is built in a folder next to its place and renamed into it when it is complete. Only one process at a
time builds a toolchain; the next one removes what a killed one has left. pip's output is kept as ``NAME.log`` there.
"""

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bench import format as fmt
from bench.console import Stage, View
from bench.errors import ToolchainError
from bench.files import write_atomic
from bench.machine.child import POLL_S, Child
from bench.paths import cache_dir
from bench.toolchains import toolchain
from bench.toolchains.toolchain import Toolchain, ToolchainManifest
from quantize import locks
from quantize.clock import utc_now
from quantize.search_path import search_path

CHECK_S = 600
"""Longest time for a check. Chosen: a first import may compile kernels for minutes."""
STEPS = ("Collecting ", "Building wheel", "Installing collected packages")
"""Prefixes of the lines in which pip reports its progress."""
NOISE = ("warning:", "hint:", "note:", "[notice]", "error: resolutionimpossible", "╰─>", "[end of output]")
PIP = ("-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--progress-bar", "off")
VERSIONS = """
import importlib.metadata, json
print(json.dumps({each.metadata["Name"]: each.version for each in importlib.metadata.distributions()}))
"""


@contextlib.contextmanager
def only_builder(place: Path, name: str, view: View) -> Iterator[None]:
    """Hold the lock of a toolchain; wait, with a message, while another process builds it."""
    place.mkdir(parents=True, exist_ok=True)
    with locks.held(place / f"{name}.lock", lambda: view.say(f"  waiting: another process builds {name}")):
        yield


def build(name: str) -> str:
    """Build toolchain ``name`` unless it exists already; return its interpreter.

    Raises:
        ToolchainError: there is no suitable Python, too little disk space, or pip failed; with the reason and the log.
    """
    chain = toolchain.read(name)
    if chain.is_current:
        raise ToolchainError(f"{name} is part of quantbench's own environment: pip install 'quantbench[quantize]'")
    base = toolchain.base_python(chain)
    place = toolchain.folder(chain, base[1])
    with View(f"toolchain {name}: {chain.title}") as view, only_builder(place.parent, name, view):
        python = str(place / "bin" / "python")
        if toolchain.read_built(place):
            view.say(f"  already built: {place}")
            return python
        for leftover in [place, *place.parent.glob(f"{place.name}.work-*")]:
            if leftover.exists():
                view.say(f"  removing the remains of a killed build: {leftover.name}")
                shutil.rmtree(leftover)
        check_room(chain, place.parent)
        view.say(
            f"  downloads about {fmt.space(chain.download_bytes)}, takes about {fmt.space(chain.disk_bytes)} "
            "of disk space; several GB more of each if pip chooses torch's CUDA build"
        )
        work = place.with_name(f"{place.name}.work-{os.getpid()}")
        log_file(chain).unlink(missing_ok=True)
        try:
            _build(chain, base, place, work, view)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise
        view.say(f"  ready: {place}")
        return python


def log_file(chain: Toolchain) -> Path:
    """Return the file with pip's output of the last build of ``chain``."""
    return cache_dir() / "toolchains" / f"{chain.name}.log"


def check_room(chain: Toolchain, place: Path) -> None:
    """Check that the disk has enough free space for the download and the installation.

    Raises:
        ToolchainError: it has not; with the figures.
    """
    free, needed = shutil.disk_usage(place).free, chain.disk_bytes + chain.download_bytes
    if needed > free:
        raise ToolchainError(
            f"toolchain {chain.name} needs {fmt.space(needed)} on the disk of {place}, which has {fmt.space(free)} "
            "free: free some, or choose another folder with QUANTBENCH_CACHE"
        )


def _build(chain: Toolchain, python_and_version: tuple[str, str], place: Path, work: Path, view: View) -> None:
    base, version = python_and_version
    log = log_file(chain)
    begin = time.monotonic()
    python = str(work / "bin" / "python")
    with view.stage("environment") as line:
        _run([base, "-m", "venv", str(work)], chain, log, line)
    (work / "constraints.txt").write_text("\n".join((*chain.constraints, "")))
    with view.stage("installing") as line:
        limits = ("-c", str(work / "constraints.txt"))
        _run([python, *PIP, *limits, *chain.requirements], chain, log, line)
        if chain.no_deps:
            _run([python, *PIP, "--no-deps", *chain.no_deps], chain, log, line)
    with view.stage("checking"):
        run_check(chain, python, log)
        versions = json.loads(_ask(python, VERSIONS, {}))
    _move(work, place)
    built = ToolchainManifest(
        name=chain.name,
        requirements=(*chain.requirements, *chain.no_deps),
        python=version,
        versions=dict(sorted(versions.items())),
        disk_bytes=_disk_bytes(work),
        build_s=time.monotonic() - begin,
        created_at=utc_now(),
    )
    write_atomic(work / toolchain.MANIFEST, built.model_dump_json(indent=1))
    work.rename(place)


def _move(work: Path, place: Path) -> None:
    """Make the scripts of an environment that was built in ``work`` use the interpreter in ``place``."""
    for script in (work / "bin").iterdir():
        if script.is_symlink() or not script.is_file():
            continue
        with contextlib.suppress(UnicodeDecodeError):
            text = script.read_text()
            if str(work) in text:
                script.write_text(text.replace(str(work), str(place)))


def _disk_bytes(place: Path) -> int:
    return sum(file.lstat().st_blocks * 512 for file in place.rglob("*"))


def _run(argv: Sequence[str], chain: Toolchain, log: Path, line: Stage) -> None:
    """Run one step with its output in ``log``, showing pip's progress, without access to this process's packages."""
    with Child(argv, what=f"toolchain {chain.name}", log_file=log, env=alone(), cwd=log.parent) as child:
        while child.exit_code is None:
            line.update(detail=_progress(child))
            time.sleep(POLL_S)
        if child.exit_code != 0:
            raise ToolchainError(f"building toolchain {chain.name} failed: {last_words(log)} (log: {log})")


def _progress(child: Child) -> str:
    """Return pip's current step, e.g. ``Collecting torch==2.13.0``."""
    steps = [text for text in child.last_lines(20).split(" | ") if text.startswith(STEPS)]
    return steps[-1].partition(" (from")[0].partition(":")[0] if steps else ""


def alone() -> dict[str, str]:
    """Return environment variables that isolate another interpreter from this process's packages and from the hub."""
    return {"PYTHONPATH": "", "PYTHONNOUSERSITE": "1", "HF_HUB_OFFLINE": "1", "PIP_REQUIRE_VIRTUALENV": "0"}


def last_words(log: Path) -> str:
    """Return the line of a log that says what failed: pip's last error, or else the last line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    relevant = [line for line in lines if not line.lower().startswith(NOISE)]
    errors = [line for line in relevant if line.lower().startswith("error:")]
    return (errors or relevant or ["no message"])[-1]


def _ask(python: str, code: str, variables: Mapping[str, str]) -> str:
    done = subprocess.run(
        [python, "-c", code],
        env={**os.environ, **search_path(python), **alone(), **variables},
        capture_output=True,
        text=True,
        timeout=CHECK_S,
        stdin=subprocess.DEVNULL,
        cwd=Path(python).parent,
    )
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise ToolchainError(lines[-1] if lines else f"ended with code {done.returncode}")
    lines = done.stdout.strip().splitlines()
    return lines[-1] if lines else ""


def run_check(chain: Toolchain, python: str, log: Path | None = None) -> str:
    """Import a toolchain's modules in its interpreter and run its check; return the versions that it prints, as JSON.

    Raises:
        ToolchainError: it failed; with the exact error.
    """
    imports = "".join(f"import {module}\n" for module in chain.modules)
    try:
        return _ask(python, imports + chain.check, toolchain.variables(chain.name))
    except ToolchainError as error:
        where = f" (log: {log})" if log else ""
        raise ToolchainError(f"toolchain {chain.name} does not work: {error}{where}") from error
    except subprocess.TimeoutExpired as error:
        raise ToolchainError(f"toolchain {chain.name} does not work: no answer within {CHECK_S} s") from error


def check(name: str) -> str:
    """Check an installed toolchain; return the versions that it prints, as one line of JSON.

    Raises:
        ToolchainError: it is not built, or does not work; with the exact error.
    """
    chain = toolchain.read(name)
    return run_check(chain, toolchain.toolchain_interpreter(name, "toolchain check"))
