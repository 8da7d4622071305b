import contextlib
import fcntl
import json
import re
import shutil
import subprocess
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.commands.toolchain import ACTIONS
from bench.commands.toolchain import main as toolchain_main
from bench.errors import ToolchainError
from bench.toolchains import build as toolchain_build
from bench.toolchains import toolchain
from bench.toolchains.toolchain import Toolchain, interpreter_for
from quantize.backend import backend, backends
from tests.support.program import Cli

TOML = """
title = "a tiny one"
what_for = "tests"
requirements = ["{pin}"]
modules = ["tiny_tool"]
disk_bytes = {disk}
download_bytes = 1000
on_cpu = "everything"
check = '''{check}'''
"""
CHECK = "import json\nprint('noise')\nprint(json.dumps({'tiny-tool': tiny_tool.VERSION}))"
Write = Callable[..., Toolchain]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Create a cache, a folder of toolchains and an index of one package; return a function that writes a toolchain."""
    monkeypatch.setenv("QUANTBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(toolchain, "FOLDER", tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with zipfile.ZipFile(tmp_path / "tiny_tool-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_tool.py", "VERSION = '1.0'\n")
        info = "tiny_tool-1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-tool\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", f"tiny_tool.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")

    def write_one(name: str = "tiny", pin: str = "tiny-tool==1.0", disk: int = 1000, check: str = CHECK) -> Toolchain:
        (tmp_path / f"{name}.toml").write_text(TOML.format(pin=pin, disk=disk, check=check))
        return toolchain.read(name)

    return write_one


def place_of(chain: Toolchain) -> Path:
    return toolchain.folder(chain, toolchain.base_python(chain)[1])


@contextlib.contextmanager
def held(file: Path) -> Iterator[None]:
    """Hold a builder's lock for a second."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        timer = threading.Timer(1.0, lambda: fcntl.flock(stream, fcntl.LOCK_UN))
        timer.start()
        yield
        timer.join()


@pytest.mark.parametrize("name", toolchain.names())
def test_every_toolchain_is_pinned_and_described(name: str) -> None:
    chain = toolchain.read(name)
    assert chain.on_cpu
    assert chain.disk_bytes > chain.download_bytes > 0
    compile(chain.check, name, "exec")
    if not chain.is_current:
        pinned = toolchain.pinned_versions(name).keys()
        if name not in {backend(library).toolchain for library in backends()}:
            return  # no quantbench module is imported in its environment
        assert {"pydantic", "psutil", "torch"} <= pinned
        assert {"pydantic", "psutil", "torch"} <= set(chain.modules)


def test_the_libraries_of_the_quantize_extra_need_no_environment_of_their_own() -> None:
    assert [name for name in toolchain.names() if toolchain.read(name).is_current] == ["llmcompressor"]
    with pytest.raises(ToolchainError, match=r"pip install 'quantbench\[quantize\]'"):
        toolchain_build.build("llmcompressor")


def test_another_pin_or_python_is_another_environment_and_another_title_is_not(write: Write) -> None:
    chain = write()
    assert toolchain.folder(chain, "3.11") != toolchain.folder(chain, "3.12")
    assert toolchain.folder(chain, "3.11") != toolchain.folder(write(pin="tiny-tool==1.1"), "3.11")
    assert toolchain.folder(chain, "3.11") == toolchain.folder(write(disk=5), "3.11")


def test_what_is_not_built_says_what_to_type(write: Write) -> None:
    assert toolchain.state(write()).kind == "not built"
    with pytest.raises(ToolchainError, match=r"quant=x needs the toolchain tiny, .*quantbench toolchain build tiny "):
        toolchain.toolchain_interpreter("tiny", "quant=x")
    with pytest.raises(ToolchainError, match="quantbench toolchain build tiny"):
        toolchain_build.check("tiny")


@pytest.mark.parametrize("pin", ["tiny-tool", "tiny-tool>=1", "tiny-tool==1.*"])
def test_a_loose_pin_is_refused(write: Write, pin: str) -> None:
    with pytest.raises(ToolchainError, match="is not pinned as name==version"):
        write(pin=pin)


def test_a_missing_python_is_reported(write: Write) -> None:
    chain = write().model_copy(update={"python": ("9.8",)})
    with pytest.raises(ToolchainError, match=r"needs python9\.8, but only Python 3\.\d+ is installed"):
        toolchain.base_python(chain)
    assert toolchain.state(chain).kind == "not built"


def test_a_full_disk_is_reported_with_figures_before_any_work(write: Write) -> None:
    chain = write(disk=10**18)
    with pytest.raises(ToolchainError, match=r"needs 1000000000\.0 GB on the disk of .* which has [\d.]+ GB free"):
        toolchain_build.build("tiny")
    assert not place_of(chain).exists()


def test_an_environment_built_before_its_manifest_named_units_is_used(tmp_path: Path) -> None:
    """An environment has gigabytes; a renamed field must not force a new build."""
    facts = {"name": "tiny", "requirements": ["tiny-tool==1.0"], "python": "3.11", "versions": {"tiny-tool": "1.0"}}
    facts |= {"disk_bytes": 2_000_000, "seconds": 12.5, "created_at": "2026-11-30T19:29:20+00:00"}
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()
    (tmp_path / toolchain.MANIFEST).write_text(json.dumps(facts))
    built = toolchain.read_built(tmp_path)
    assert built is not None
    assert built.build_s == 12.5


def test_built_once_and_used(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    chain = write()
    place = place_of(chain)
    (place / "bin").mkdir(parents=True)  # remains of killed builds
    place.with_name(f"{place.name}.work-1").mkdir()
    assert toolchain.state(chain).kind == "not built"
    python = toolchain_build.build("tiny")
    output = capsys.readouterr().err
    assert output.count("removing the remains of a killed build") == 2
    assert "downloads about 0.0 MB, takes about 0.0 MB of disk" in output
    assert toolchain.toolchain_interpreter("tiny", "x") == python == str(place / "bin" / "python")
    built = toolchain.read_built(place)
    assert built is not None
    assert built.versions["tiny-tool"] == "1.0"
    assert built.disk_bytes > 1_000_000
    pip = subprocess.run([place / "bin" / "pip", "--version"], capture_output=True, text=True, check=True)
    assert str(place) in pip.stdout
    assert [path.name for path in place.parent.iterdir() if path.is_dir()] == [place.name]

    assert json.loads(toolchain_build.check("tiny")) == {"tiny-tool": "1.0"}
    with held(place.parent / "tiny.lock"):
        assert toolchain_build.build("tiny") == python
    output = capsys.readouterr().err
    assert "waiting: another process builds tiny" in output
    assert "already built" in output

    assert toolchain_main(["check", "tiny"]) == 0
    assert capsys.readouterr().out == '{"tiny-tool": "1.0"}\n'
    assert toolchain_main(["list"]) == 0
    assert "built" in capsys.readouterr().out

    write(check="raise RuntimeError('no kernel\\nfor sm_00')")
    assert toolchain_main(["check", "tiny"]) == 1
    assert capsys.readouterr().err == "error: toolchain tiny does not work: for sm_00\n"
    write(check="import tiny_tool.part")
    with pytest.raises(ToolchainError, match=r"ModuleNotFoundError: No module named 'tiny_tool\.part'"):
        toolchain_build.check("tiny")

    shutil.rmtree(place / "bin")  # for instance an interpreter that was uninstalled
    assert toolchain.state(chain).kind == "not built"


def test_a_failed_build_reports_cause_and_log_and_leaves_nothing(write: Write) -> None:
    chain = write(pin="no-such-package==1.0")
    with pytest.raises(
        ToolchainError, match=r"failed: ERROR: No matching distribution.*no-such-package==1\.0"
    ) as failure:
        toolchain_build.build("tiny")
    log = Path(str(failure.value).rpartition("log: ")[2].rstrip(")"))
    assert "no-such-package" in log.read_text()
    assert [path for path in place_of(chain).parent.iterdir() if path.is_dir()] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["biuld", "autoawq"], "unknown action 'biuld'; did you mean 'build'? Known: list, build, check"),
        (["build", "autogptq"], "unknown toolchain 'autogptq'; did you mean 'auto-gptq'?"),
        (["check"], "check needs a name: quantbench toolchain check NAME, one of auto-gptq, "),
        (["list", "autoawq"], "list takes no name; try quantbench toolchain check autoawq"),
    ],
)
def test_wrong_commands_get_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert toolchain_main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1


def test_the_command_lists_and_helps(cli: Cli) -> None:
    done = cli("toolchain", "list", module="bench.cli")
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in toolchain.names())
    assert "current interpreter" in done.stdout
    helped = cli("toolchain", "--help", module="bench.cli")
    assert helped.returncode == 0
    assert all(text in helped.stdout for text in ACTIONS.values())


def test_a_missing_package_is_named_with_the_extra_or_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ToolchainError, match=re.escape("pip install 'quantbench[eval,quantize]'")):
        interpreter_for(("llmcompressor", "lm_eval"), "a stage")
    with pytest.raises(ToolchainError, match=re.escape("a stage needs own_server: pip install own_server")):
        interpreter_for(("own_server",), "a stage")
