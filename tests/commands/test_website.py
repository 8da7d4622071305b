"""The site lists every run and every variant's history, and rewrites only the pages that changed."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench.commands.website import main
from bench.nightly.gate import accept
from bench.report.site_pages import page_name
from testkit.records import QUANTS, keep, native_record, record
from tests.support.nights import night
from tests.support.pages import Page
from tests.support.paths import ROOT

SLOW = 0.07


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    for day in range(12):
        keep(folder, night(day, SLOW if day == 11 else 0.0))
    for quant in QUANTS[:2]:
        keep(folder, native_record(quant, started_at="2026-06-01T00:00:00+00:00"))
    return folder


def build(results: Path, *more: str) -> int:
    return main(["build", "--results", str(results), "--out", str(results.parent / "site"), *more])


def test_the_index_lists_sessions_and_variants_and_leads_to_their_pages(results: Path) -> None:
    assert build(results, "--reports", "3") == 0
    site = results.parent / "site"
    index = Page((site / "index.html").read_text())
    assert len(index.rows_with("session-")) == 12
    assert index.rows_with("20261124T020000-4242", "bf16, fp8", "vllm")
    assert "2 alarms in the last nights." in index.text
    links = {attrs["href"] for tag, attrs in index.tags if tag == "a" and not str(attrs["href"]).startswith("#")}
    assert {file.name for file in site.glob("*.html")} == {str(link) for link in links} | {"index.html"}
    assert sum(str(link).startswith("session-") for link in links) == 3


def test_a_variants_page_shows_its_nights_with_the_alarm_first(results: Path) -> None:
    assert build(results, "--reports", "0") == 0
    text = (results.parent / "site" / "variant-smollm2-135m-gptq-int4-transformers.html").read_text()
    page = Page(text)
    assert page.rows_with("in256", "decode", "rerun", "a second measurement must agree")
    assert "<svg" in text
    assert "2026-01-01: the first night" in page.text


def test_only_changed_pages_are_written_again(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = results.parent / "site"
    assert build(results) == 0
    first = {file.name: file.stat().st_mtime_ns for file in site.glob("*.html")}
    capsys.readouterr()
    assert build(results) == 0
    assert "1 page written" in capsys.readouterr().out
    keep(results, night(12))
    assert build(results) == 0
    again = {file.name: file.stat().st_mtime_ns for file in site.glob("*.html")}
    changed = {name for name in again if first.get(name) != again[name]}
    assert changed == {"index.html", "session-session-012-23.html", "variant-smollm2-135m-gptq-int4-transformers.html"}
    accept(results, "run-011-23", "a new kernel")
    assert build(results) == 0
    page = (site / "variant-smollm2-135m-gptq-int4-transformers.html").read_text()
    assert "a new kernel" in page


def test_the_same_results_give_the_same_bytes(results: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert main(["build", "--results", str(results), "--out", str(tmp_path / name), "--reports", "2"]) == 0
    for file in (tmp_path / "one").glob("*"):
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_a_missing_results_folder_is_an_error_of_the_site(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "--results", str(tmp_path), "--out", str(tmp_path / "site")]) == 2
    assert "--results DIR" in capsys.readouterr().err
    assert not (tmp_path / "site").exists()


def test_variants_of_one_night_have_a_page_too(tmp_path: Path) -> None:
    keep(tmp_path / "results", record())
    assert build(tmp_path / "results") == 0
    pages = [file.read_text() for file in (tmp_path / "site").glob("variant-*.html")]
    assert len(pages) == 1
    assert "Only one night so far" in pages[0]


def test_an_unreadable_list_of_pages_rewrites_all_pages(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build(results, "--reports", "1") == 0
    (results.parent / "site" / "made.json").write_text('{"variants": "[{')
    capsys.readouterr()
    assert build(results, "--reports", "1") == 0
    assert ", 0 unchanged" in capsys.readouterr().out


def test_names_lead_to_no_other_folder_and_no_two_to_one_page(tmp_path: Path) -> None:
    names = ("../../evil", "..-..-evil", "fp8[x=1]", "fp8-x-1-", "a/b", "a b", "plain-name", "")
    files = [page_name("session", name) for name in names]
    assert len(set(files)) == len(names)
    assert all(file == Path(file).name for file in files)
    assert page_name("session", "plain-name") == "session-plain-name.html"
    results = tmp_path / "deep" / "results"
    keep(results, record(session="../../evil"))
    assert main(["build", "--results", str(results), "--out", str(tmp_path / "deep" / "site")]) == 0
    assert [file.name for file in tmp_path.glob("*")] == ["deep"]


def test_a_killed_build_leaves_no_process_behind() -> None:
    code = (
        "import os, signal, time\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from bench.report.website import _prepare\n"
        "pool = ProcessPoolExecutor(2, initializer=_prepare)\n"
        "jobs = [pool.submit(os.getpid), pool.submit(time.sleep, 60)]\n"
        "pids = [jobs[0].result(), *pool._processes]\n"
        "print(*pids, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    # The workers also hold the pipe: it closes when they end.
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    assert len(done.stdout.split()) == 3
