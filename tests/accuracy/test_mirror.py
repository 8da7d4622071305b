"""A mirror of the benchmarks' data: built from a hub over real HTTP, read by the real lm-eval, and checked."""

import fcntl
import functools
import http.server
import os
import shutil
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest

from bench.accuracy import data
from bench.accuracy.mirror import build as mirror_build
from bench.accuracy.mirror import sources
from bench.accuracy.mirror.files import MANIFEST, PART, Mirror, read, write
from bench.commands import mirror
from bench.errors import AccuracyError
from tests.support.hub import COMMIT, Hub, Repo, offline_env, serve
from tests.support.mirror_site import LARGE, REPO, SUBJECTS, Site, items, known_leaf, parquet, repository, site_in
from tests.support.program import Cli


@dataclass
class Built:
    """A mirror that was built by two commands, the first of which was interrupted."""

    site: Site
    first: subprocess.CompletedProcess[str]
    second: subprocess.CompletedProcess[str]
    left: list[Path]
    """The files that the first command left."""
    asked: list[str]
    ranges: list[str]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    with site_in(tmp_path_factory.mktemp("built")) as site:
        site.hub.cut["large.bin"] = [len(LARGE) - 1, *[0] * 30]
        first = site.build()
        remains = sorted(path.relative_to(site.out) for path in site.out.glob("*"))
        site.hub.cut.clear()
        second = site.build()
        yield Built(site, first, second, remains, list(site.hub.asked), list(site.hub.ranges))


def error_line(done: subprocess.CompletedProcess[str], code: int = 1) -> str:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_a_build_fetches_what_the_tasks_read_and_says_what_to_type_next(built: Built) -> None:
    out = built.site.out
    assert built.second.returncode == 0, built.second.stderr
    assert f"{REPO} at commit {COMMIT[:12]}: 10 files, " in built.second.stderr
    assert "MB of disk" in built.second.stderr
    assert f"QUANTBENCH_HUB={out} python -m bench.run" in built.second.stdout
    expected = {name for name in repository() if not name.startswith(("all/", "script"))}
    files = {str(path.relative_to(out / REPO)) for path in (out / REPO).rglob("*") if path.is_file()}
    assert files == expected
    assert sorted(path.name for path in out.iterdir()) == [MANIFEST, "org"]
    assert not any("script.py" in line or "/all/" in line for line in built.asked)
    manifest = read(out)
    assert manifest is not None
    facts = manifest.datasets[REPO]
    assert (facts.commit, facts.licence, facts.files.keys()) == (COMMIT, "MIT", expected)
    assert manifest.tasks["tiny"].leaves == {subject: known_leaf(subject) for subject in SUBJECTS}


def test_an_interrupted_build_leaves_no_partial_mirror_and_resumes(built: Built) -> None:
    line = error_line(built.first)
    assert line.startswith(f"error: cannot get {REPO}@{COMMIT} from the hub (")
    assert line.endswith("rerun the same command when it answers: finished files are kept")
    assert built.left == [Path(PART)]
    whole = [line for line in built.asked if line.startswith("GET") and "apples/test" in line]
    assert len(whole) == 1, "a complete file is not fetched twice"
    assert set(built.ranges) == {"bytes=10485760-"}


def test_a_second_build_is_up_to_date_without_a_hub(built: Built) -> None:
    done = built.site.build(**offline_env(built.site.folder / "hf"))
    assert done.returncode == 0, done.stderr
    assert "up to date" in done.stderr
    assert "verifying" not in done.stderr


def test_a_check_names_all_that_is_wrong(built: Built, tmp_path: Path) -> None:
    site = Site(tmp_path, built.site.hub)
    site.write_knowledge()
    shutil.copytree(built.site.out, site.out)
    folder = site.out / REPO
    fewer, other = items("apples", "test")[:-1], items("pears", "test")
    other[2]["answer"] = 3
    (folder / "apples/test-00000-of-00001.parquet").write_bytes(parquet(fewer))
    (folder / "pears/test-00000-of-00001.parquet").write_bytes(parquet(other))
    cut = folder / "plums/test-00000-of-00001.parquet"
    cut.write_bytes(cut.read_bytes()[:-10])
    shutil.rmtree(folder / "quinces")
    (folder / "README.md").write_bytes((folder / "README.md").read_bytes().replace(b"# Tiny", b"# Tina"))

    done = site("check", str(site.out), **offline_env(tmp_path / "hf"))
    assert done.returncode == 1
    assert "apples: 5 items, not 6\n" in done.stderr
    assert f"{cut}: {cut.stat().st_size} bytes, not {cut.stat().st_size + 10}\n" in done.stderr
    assert f"{folder}/quinces/test-00000-of-00001.parquet: missing\n" in done.stderr
    assert f"{folder}/README.md: changed since it was fetched (SHA-256)\n" in done.stderr
    known = known_leaf("pears").sha256
    assert known
    assert (
        f"pears: different items (sha256 {data.digest(other, ('question', 'choices', 'answer'))[:12]}…" in done.stderr
    )
    assert f"expected {known[:12]}…" in done.stderr
    assert "plums: cannot be loaded (" in done.stderr
    assert "quinces: cannot be loaded (" in done.stderr
    assert error_line(done).endswith("accuracy.verify_data=false ignores this")


def test_unknown_data_is_kept_and_reported_each_time(site: Site) -> None:
    name = "apples/dev-00000-of-00001.parquet"
    site.hub.repos[REPO].files[name] = parquet(list(reversed(items("apples", "dev"))))
    for _ in range(2):
        done = site.build()
        assert error_line(done) == (
            "error: 1 mismatch with the known benchmark data; accuracy.verify_data=false ignores this"
        )
        assert "  apples: different few-shot examples (sha256 " in done.stderr
        assert (site.out / REPO / name).is_file()


def test_another_commit_is_fetched_again(built: Built, tmp_path: Path) -> None:
    newer = "f" * 40
    site = Site(tmp_path)
    site.write_knowledge(newer)
    site.hub.repos[REPO].commit = newer
    shutil.copytree(built.site.out, site.out)
    with serve(site.hub):
        done = site.build()
    assert done.returncode == 0, done.stderr
    manifest = read(site.out)
    assert manifest
    assert manifest.datasets[REPO].commit == newer


def test_a_build_fetches_missing_files(built: Built, tmp_path: Path) -> None:
    site = Site(tmp_path, built.site.hub)
    site.write_knowledge()
    shutil.copytree(built.site.out, site.out)
    shutil.rmtree(site.out / "org")  # as if it had been killed just before the data set was moved into place
    done = site.build()
    assert done.returncode == 0, done.stderr
    assert f"fetching {REPO} again: {site.out / REPO}/README.md: missing; " in done.stderr
    assert (site.out / REPO / "README.md").is_file()


def test_each_refusal_of_the_hub_is_one_line_and_exit_code_1(site: Site) -> None:
    repo = site.hub.repos[REPO]
    repo.gated = True
    assert f"{REPO} is gated: accept its terms on the hub, then set HF_TOKEN (403)" in error_line(site.build())
    repo.gated, repo.commit = False, "e" * 40
    assert f"{REPO} has no revision '{COMMIT}'" in error_line(site.build())
    repo.commit, repo.files = COMMIT, {"other.txt": b""}
    assert f"{REPO}@{COMMIT} has none of the files README.md, " in error_line(site.build())
    del site.hub.repos[REPO]
    assert f"the hub has no public repository {REPO}" in error_line(site.build())
    offline = error_line(site.build(**offline_env(site.folder / "hf")))
    assert offline.startswith(f"error: cannot reach the hub for {REPO}@{COMMIT} (")
    assert not (site.out / MANIFEST).exists()


def test_an_unusable_folder_is_rejected_before_any_download(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.tex").write_text("")
    cases = {
        f"contains other things (thesis.tex) and no {MANIFEST}: choose a new or an empty folder": tmp_path,
        "thesis.tex is a file: choose a folder": tmp_path / "thesis.tex",
    }
    for message, place in cases.items():
        assert mirror.main(["build", "--tasks", "ifeval", "--out", str(place)]) == 1
        assert message in capsys.readouterr().err
    unnamed = tmp_path / "unnamed"
    (unnamed / "google/IFEval").mkdir(parents=True)
    write(unnamed, Mirror())
    with pytest.raises(AccuracyError, match=r"google/IFEval is not in .*mirror\.json: remove it"):
        mirror_build.build(("ifeval",), unnamed)
    (unnamed / MANIFEST).write_text("{}}")
    assert mirror.main(["check", str(unnamed)]) == 1
    assert "mirror.json cannot be read (" in capsys.readouterr().err


def test_one_builder_at_a_time(tmp_path: Path) -> None:
    lock = tmp_path / PART / ".lock"
    lock.parent.mkdir()
    with lock.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(AccuracyError, match="another process is building"):
            mirror_build.build(("ifeval",), tmp_path)


def test_a_full_disk_is_reported_with_figures(tmp_path: Path) -> None:
    listing = mirror_build.Listing(source=sources.HubDataset(repo=REPO), commit=COMMIT, sizes={"a": 10**18})
    with mirror.View("test") as view, pytest.raises(AccuracyError, match=r"needs 1000000000\.0 GB on the disk of"):
        mirror_build.check_room(tmp_path, [listing], view)


def punkt_in(folder: Path) -> Path:
    file = folder / data.PUNKT / "english" / "abbrev_types.txt"
    file.parent.mkdir(parents=True)
    file.write_text("dr\n")
    return folder


def test_nltks_tables_come_from_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NLTK_DATA", f"/no/such{os.pathsep}{punkt_in(tmp_path / 'have')}")
    assert mirror_build.copy_tables(tmp_path / "hub/nltk_data")
    assert data.nltk_dir(tmp_path / "hub") == tmp_path / "hub/nltk_data"
    assert data.nltk_dir(tmp_path) is None
    assert data.nltk_dir(None) is None
    monkeypatch.setenv("NLTK_DATA", "/no/such")
    assert mirror_build.copy_tables(tmp_path / "none") is None


def test_nltks_tables_are_downloaded_as_nltk_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pathsec = pytest.importorskip("nltk.pathsec")
    site = tmp_path / "site"
    punkt_in(site)
    archive = site / "punkt_tab.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.write(site / data.PUNKT / "english/abbrev_types.txt", "punkt_tab/english/abbrev_types.txt")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(site))
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *words: None)
    monkeypatch.setattr(pathsec, "_ip_is_forbidden", lambda ip: False)  # NLTK refuses servers on this machine
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        package = {
            "id": "punkt_tab", "name": "Punkt", "subdir": "tokenizers", "unzip": "1", "url": f"{url}/punkt_tab.zip",
            "size": archive.stat().st_size, "unzipped_size": 3,
            "sha256_checksum": sha256(archive.read_bytes()).hexdigest(),
        }  # fmt: skip
        attributes = " ".join(f'{name}="{value}"' for name, value in package.items())
        (site / "index.xml").write_text(f"<nltk_data><packages><package {attributes}/></packages></nltk_data>")
        assert mirror_build.download_tables(tmp_path / "hub/nltk_data", f"{url}/index.xml") == f"{url}/index.xml"
        server.shutdown()
    assert data.nltk_dir(tmp_path / "hub")
    assert not list((tmp_path / "hub").rglob("*.zip"))
    with pytest.raises(AccuracyError, match=r"cannot fetch NLTK's punkt_tab .* pip install --no-deps llama-index-core"):
        mirror_build.download_tables(tmp_path / "none", f"{url}/index.xml")


@pytest.fixture
def sample() -> Path:
    named = os.environ.get("QUANTBENCH_HUB")
    if not named:
        pytest.skip("no local hub mirror: set QUANTBENCH_HUB to one with cais/mmlu, ceval/ceval-exam, google/IFEval")
    return Path(named)


def test_a_real_mirror_passes(sample: Path, cli: Cli) -> None:
    done = cli("mirror", "check", str(sample), module="bench.cli")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:3] == [
        "mmlu: 14042 items in 57 leaf tasks, verified",
        "ceval-valid: 1346 items in 52 leaf tasks, verified",
        "ifeval: 541 items in 1 leaf task, verified",
    ]


def test_a_real_benchmark_is_mirrored_and_read(sample: Path, cli: Cli, tmp_path: Path) -> None:
    known = data.benchmarks()["ifeval"]
    folder = sample / known.repo
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    out = tmp_path / "mirror"
    with serve(Hub(repos={known.repo: Repo(files=files, kind="dataset", commit=known.revision)})) as hub:
        done = cli("mirror", "build", "--tasks", "ifeval", "--out", str(out), module="bench.cli", **hub.env(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "'accuracy.tasks=[ifeval]'" in done.stdout
    assert data.nltk_dir(out)
