"""Build a mirror: fetch the data of tasks from the hub, at a commit, into a folder for machines without the hub.

Each data set is downloaded to ``.part`` and renamed into its place when it is complete. ``mirror.json`` lists it just
before: a listed data set that is missing is fetched again, and an unlisted one does not belong to the mirror. The same
command resumes an interrupted build; complete files are not fetched twice.
"""

import contextlib
import errno
import io
import itertools
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from bench import format as fmt
from bench.accuracy import data
from bench.accuracy import tasks as accuracy_tasks
from bench.accuracy.mirror import check as mirror_check
from bench.accuracy.mirror.files import (
    MANIFEST,
    NLTK,
    PART,
    Dataset,
    Mirror,
    Tables,
    TaskData,
    file_problems,
    read,
    write,
)
from bench.accuracy.mirror.sources import HubDataset, repos_of, source_of
from bench.console import View
from bench.errors import AccuracyError
from bench.toolchains.toolchain import interpreter_for
from quantize import hub, locks
from quantize.checkpoint import hash_file, hash_folder
from quantize.clock import utc_now
from quantize.key import Frozen

DOWNLOADS = 8
"""Files fetched concurrently."""
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class Listing(Frozen):
    """The files of a source on the hub."""

    source: HubDataset
    commit: str
    sizes: dict[str, int]
    """Bytes of each file to fetch."""


def build(names: Sequence[str], out: Path) -> list[str]:
    """Build a mirror for tasks, or add them to one; return the problems of their data, empty if it is as known.

    Args:
        names: task names from :func:`bench.accuracy.mirror.sources.check_names`.
        out: the mirror's folder, an absolute path.

    Raises:
        ConfigError: a task reads no data set on the hub.
        ToolchainError: lm-eval is not installed.
        AccuracyError: the hub refuses or is unreachable, the disk is full, or the folder contains other things.
    """
    interpreter_for(("lm_eval", "datasets", "huggingface_hub"), "quantbench mirror")
    check_place(out)
    with View(f"mirror {out}") as view, _one_line_errors(out):
        view.say(f"  looking up the data of {', '.join(names)}")
        repos = repos_of(names)
        (out / PART).mkdir(parents=True, exist_ok=True)
        with _only_builder(out):
            sources = [source_of(repo) for repo in sorted(set(itertools.chain(*repos.values())))]
            mirror = _fetch_all(out, read(out) or Mirror(), sources, view)
            if any(source.nltk for source in sources):
                mirror = _fetch_tables(out, mirror, view)
            loaded = _measure_new(out, mirror, repos, view)
            shutil.rmtree(out / PART)
    return [problem for name in names for problem in mirror_check.problems_of(loaded[name])]


def _measure_new(
    out: Path, mirror: Mirror, repos: Mapping[str, tuple[str, ...]], view: View
) -> dict[str, mirror_check.LoadedTask]:
    """Return what lm-eval reads for each task, loaded now unless ``mirror.json`` has it."""
    known = {name: facts.leaves for name in repos if (facts := mirror.tasks.get(name)) and facts.leaves}
    new = [name for name in repos if name not in known]
    loaded = mirror_check.measure(out, new, view) if new else {}
    if new:
        measured = {
            name: TaskData(repos=repos[name], leaves={} if facts.errors else facts.leaves)
            for name, facts in loaded.items()
        }
        write(out, mirror.model_copy(update={"tasks": {**mirror.tasks, **measured}}))
    else:
        view.say("  up to date")
    return loaded | {name: mirror_check.LoadedTask(leaves=leaves, errors={}) for name, leaves in known.items()}


def check_place(out: Path) -> None:
    """Check that a mirror can be built in a folder, which must be empty or a mirror.

    Raises:
        AccuracyError: it contains other things, or is not a folder.
    """
    if out.exists() and not out.is_dir():
        raise AccuracyError(f"{out} is a file: choose a folder")
    others = sorted(path.name for path in out.iterdir() if path.name != PART) if out.is_dir() else []
    if others and MANIFEST not in others:
        raise AccuracyError(
            f"{out} contains other things ({others[0]}) and no {MANIFEST}: choose a new or an empty folder; to check a "
            f"mirror made by hand, run quantbench mirror check {out}"
        )


@contextlib.contextmanager
def _only_builder(out: Path) -> Iterator[None]:
    try:
        stream = locks.hold(out / PART / ".lock")
    except locks.HeldError:
        raise AccuracyError(f"another process is building {out}: wait for it, then rerun the same command") from None
    with stream:
        yield


@contextlib.contextmanager
def _one_line_errors(out: Path) -> Iterator[None]:
    """Turn errors of the hub and the disk into one line."""
    try:
        yield
    except (hub.HubError, OSError) as error:
        cause = error.__cause__ if isinstance(error, hub.HubError) else error
        if isinstance(cause, OSError) and cause.errno in NO_SPACE:
            raise AccuracyError(
                f"no space left on the disk of {out}: free some and rerun the same command; finished files are kept"
            ) from error
        if isinstance(error, hub.HubError):
            retry = "" if error.answered else "; rerun the same command when it answers: finished files are kept"
            raise AccuracyError(f"{error}{retry}") from error
        raise AccuracyError(f"cannot write {error.filename or out}: {error.strerror or error}") from error


def _list(source: HubDataset) -> Listing:
    """Return the commit of a source's revision and its files, from the hub.

    Raises:
        HubError: the hub refuses or is unreachable.
        AccuracyError: the repository has none of the files.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile
    from huggingface_hub.utils import filter_repo_objects

    with hub.asking(source.repo, source.revision):
        info = HfApi().dataset_info(source.repo, revision=source.revision, timeout=hub.TIMEOUT_S, expand=["sha"])
        assert info.sha is not None
        tree = HfApi().list_repo_tree(source.repo, recursive=True, revision=info.sha, repo_type="dataset")
        sizes = {item.path: item.size for item in tree if isinstance(item, RepoFile)}
    allow = list(source.files) if source.files else None
    paths = filter_repo_objects(sizes, allow_patterns=allow, ignore_patterns=list(source.not_files))
    listing = Listing(source=source, commit=info.sha, sizes={path: sizes[path] for path in paths})
    if not listing.sizes:
        raise AccuracyError(f"{source.repo}@{info.sha} has none of the files {', '.join(source.files or ())}")
    return listing


def _fetch_all(out: Path, mirror: Mirror, sources: Sequence[HubDataset], view: View) -> Mirror:
    """Fetch the data sets that are missing, damaged or at another commit; return the mirror with them."""
    listings = []
    for source in sources:
        present = mirror.datasets.get(source.repo)
        if present is None and (out / source.repo).exists():
            raise AccuracyError(f"{out / source.repo} is not in {out / MANIFEST}: remove it, or choose another folder")
        if present and source.revision in (present.revision, present.commit):
            problems = file_problems(out / source.repo, present.files)
            if not problems:
                continue
            view.say(f"  fetching {source.repo} again: {data.shorten(problems)}")
        listings.append(_list(source))
    for listing in listings:
        licence = f", {listing.source.licence}" if listing.source.licence else ""
        size = f"{len(listing.sizes)} files, {fmt.space(sum(listing.sizes.values()))}"
        view.say(f"  {listing.source.repo} at commit {listing.commit[:12]}: {size}{licence}")
    check_room(out, listings, view)
    for listing in listings:
        mirror = _publish(out, mirror, listing, _fetch(out, listing, view))
    return mirror


def check_room(out: Path, listings: Sequence[Listing], view: View) -> None:
    """Print the disk space that is needed and check that it is free.

    Raises:
        AccuracyError: the disk has too little free space; with the figures.
    """
    if not listings:
        return
    downloaded = sum(file.stat().st_size for file in (out / PART).rglob("*") if file.is_file())
    needed = max(0, sum(sum(listing.sizes.values()) for listing in listings) - downloaded)
    free = shutil.disk_usage(out).free
    view.say(f"  needs {fmt.space(needed)} of disk space, {fmt.space(free)} are free")
    if needed > free:
        raise AccuracyError(
            f"the mirror needs {fmt.space(needed)} on the disk of {out}, which has {fmt.space(free)} free: free "
            "some, or choose another folder with --out"
        )


def _fetch(out: Path, listing: Listing, view: View) -> Path:
    """Fetch the files of a listing, resuming earlier downloads; return their folder.

    Raises:
        HubError: the hub refuses, or a download failed.
        AccuracyError: the size of a file differs from the hub's.
    """
    from huggingface_hub import hf_hub_download

    repo, commit = listing.source.repo, listing.commit
    work = out / PART / commit / repo
    where = {"revision": commit, "repo_type": "dataset", "local_dir": work}
    with (
        view.stage(repo, total=len(listing.sizes)) as line,
        hub.asking(repo, commit),
        ThreadPoolExecutor(DOWNLOADS) as pool,
    ):
        try:
            started = [pool.submit(hf_hub_download, repo, file, **where) for file in listing.sizes]
            for done, future in enumerate(as_completed(started), 1):
                future.result()
                line.update(done=done)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    for name, size in listing.sizes.items():
        file = work / name
        if (n_bytes := file.stat().st_size) != size:
            file.unlink()
            raise AccuracyError(f"{name} of {repo}@{commit} has {n_bytes} bytes, not {size}: rerun the same command")
    return work


def _publish(out: Path, mirror: Mirror, listing: Listing, work: Path) -> Mirror:
    """Add a data set to ``mirror.json`` and move it to its place."""
    facts = Dataset(
        revision=listing.source.revision,
        commit=listing.commit,
        licence=listing.source.licence,
        fetched_at=utc_now(),
        files={name: hash_file(work / name) for name in sorted(listing.sizes)},
    )
    repo = listing.source.repo
    unmeasured = {
        name: task.model_copy(update={"leaves": {}}) if repo in task.repos else task
        for name, task in mirror.tasks.items()
    }
    mirror = mirror.model_copy(update={"datasets": {**mirror.datasets, repo: facts}, "tasks": unmeasured})
    write(out, mirror)
    _move(work, out / repo)
    return mirror


def _move(work: Path, place: Path) -> None:
    """Rename a complete folder into its place, replacing an older one, and remove the download's cache."""
    if place.exists():
        shutil.rmtree(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    work.rename(place)
    shutil.rmtree(place / ".cache", ignore_errors=True)


def _fetch_tables(out: Path, mirror: Mirror, view: View) -> Mirror:
    """Add NLTK's sentence tables to a mirror: this machine's, or else NLTK's own download."""
    if mirror.nltk and not file_problems(out / NLTK, mirror.nltk.files):
        return mirror
    work = out / PART / NLTK
    shutil.rmtree(work, ignore_errors=True)
    with view.stage(NLTK):
        source = copy_tables(work) or download_tables(work)
    mirror = mirror.model_copy(update={"nltk": Tables(source=source, files=hash_folder(work))})
    write(out, mirror)
    _move(work, out / NLTK)
    return mirror


def copy_tables(work: Path) -> str | None:
    """Copy this machine's sentence tables into ``work``; return their source, None if it has none."""
    places = {**os.environ, **accuracy_tasks.environment(None, None)}.get("NLTK_DATA", "")
    for place in filter(None, places.split(os.pathsep)):
        tables = Path(place) / data.PUNKT
        if (tables / "english").is_dir():
            for file in filter(Path.is_file, tables.rglob("*")):
                copy = work / data.PUNKT / file.relative_to(tables)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
            return "the machine that built the mirror"
    return None


def download_tables(work: Path, index_url: str | None = None) -> str:
    """Download the sentence tables into ``work`` as NLTK does; return their source.

    Raises:
        AccuracyError: they are unavailable.
    """
    from nltk.downloader import Downloader

    downloader = Downloader(server_index_url=index_url)
    work.mkdir(parents=True)
    try:
        downloader.download(
            "punkt_tab", download_dir=str(work), quiet=True, raise_on_error=True, print_error_to=io.StringIO()
        )
    except (OSError, ValueError) as error:
        raise AccuracyError(
            f"cannot fetch NLTK's punkt_tab ({' '.join(str(error).split())}): pip install --no-deps llama-index-core "
            "includes it too; then rerun the same command"
        ) from error
    for archive in work.rglob("*.zip"):
        archive.unlink()
    return str(downloader.url)
