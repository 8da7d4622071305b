"""Memory of real process trees; devices are fake."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from bench.speed.memory import PAGE_BYTES, DeviceMemory, TreeMemory, rss_bytes
from tests.support.fake_nvml import Card, opened

MEGABYTES = 64
FAMILY = """
import subprocess, sys
grow = "import sys; block = bytearray({n} << 20); print('ready', flush=True); sys.stdin.readline()"
middle = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grow!r}])"
subprocess.run([sys.executable, "-c", middle])
"""


@contextmanager
def grandchild(megabytes: int = MEGABYTES) -> Iterator[subprocess.Popen[str]]:
    """Run a process whose grandchild holds memory; yield it when the memory is allocated."""
    code = FAMILY.replace("{n}", str(megabytes))
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout
        assert process.stdin
        assert process.stdout.readline() == "ready\n"
        yield process
        process.stdin.write("\n")


def test_memory_of_a_tree_holds_its_grandchildren_and_agrees_with_psutil() -> None:
    with grandchild() as process:
        family = psutil.Process(process.pid)
        expected = sum(p.memory_info().rss for p in (family, *family.children(recursive=True)))
        tree = TreeMemory(process.pid)
        assert len(tree.pids()) == 3
        assert tree() == pytest.approx(expected, rel=0.02)
        assert expected > MEGABYTES << 20


def test_a_tree_that_has_ended_has_no_memory() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1)
    tree = TreeMemory(process.pid)
    assert tree() is not None
    process.communicate(b"\n")
    assert tree() is None


def test_a_child_that_has_become_a_zombie_has_no_memory() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert rss_bytes([process.pid]) is None
    process.wait()


def test_a_descendant_stays_in_the_tree_when_the_process_between_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.speed.memory.FAMILY_PERIOD_S", 0.0)
    with grandchild() as process:
        tree = TreeMemory(process.pid)
        before = tree.pids()
        middle = psutil.Process(process.pid).children()[0]
        middle.kill()
        process.wait()
        assert len(before) == 3
        assert len(tree.pids()) == 1
        assert (tree() or 0) > MEGABYTES << 20
        psutil.Process(next(iter(tree.pids()))).kill()


def test_a_new_child_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.speed.memory.FAMILY_PERIOD_S", 0.0)
    tree = TreeMemory(os.getpid())
    assert tree.pids() == {os.getpid()} | {child.pid for child in psutil.Process().children(recursive=True)}
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1) as child:
        assert child.pid in tree.pids()
        child.communicate(b"\n")


def test_ended_processes_are_left_out() -> None:
    own = rss_bytes([os.getpid()])
    assert own
    assert own % PAGE_BYTES == 0
    assert rss_bytes([2**22 + 1]) is None
    assert rss_bytes([]) is None


@pytest.mark.usefixtures("_all_visible")
def test_memory_of_a_server_is_that_of_its_processes_if_nvml_reports_it() -> None:
    card = Card(used=50, processes=[(os.getpid(), 20), (1, 5)])
    devices = opened(card)
    memory = DeviceMemory(devices, TreeMemory(os.getpid()), devices.memory_used())
    assert memory() == 20


@pytest.mark.usefixtures("_all_visible")
def test_with_foreign_process_ids_memory_is_the_rise_over_the_baseline() -> None:
    first, other = Card(used=50), Card(index=1, used=10, processes=None)
    devices = opened(first, other)
    memory = DeviceMemory(devices, TreeMemory(os.getpid()), devices.memory_used())
    assert memory() == 0
    first.used, other.used = 80, 15
    assert memory() == 35
    first.used, other.used = 40, 10
    assert memory() == 0
    first.used = None
    assert memory() is None
    assert DeviceMemory(devices, TreeMemory(os.getpid()), None)() is None
