"""The files of a mirror: ``mirror.json``, and checks of the files against it.

::

    DIR/cais/mmlu/…            data sets, each in a folder of its repository's name, files as on the hub
    DIR/nltk_data/…            NLTK's sentence tables, for tasks that need them
    DIR/mirror.json            what was fetched: repository, commit, size and SHA-256 of every file, counts
    DIR/.part/…                a running build, or an interrupted one that can be resumed
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import Field, ValidationError

from bench import __version__
from bench.accuracy.data import Leaf
from bench.errors import AccuracyError
from bench.files import write_atomic
from quantize.checkpoint import FileFact, hash_file
from quantize.clock import utc_now
from quantize.key import Frozen

MANIFEST = "mirror.json"
PART = ".part"
NLTK = "nltk_data"


class Dataset(Frozen):
    """One data set of a mirror."""

    revision: str
    """The requested revision: a commit or a branch."""
    commit: str
    licence: str | None
    fetched_at: str
    files: dict[str, FileFact]


class Tables(Frozen):
    """NLTK's sentence tables in a mirror."""

    source: str
    files: dict[str, FileFact]


class TaskData(Frozen):
    """The data that lm-eval read for one task when the mirror was built."""

    repos: tuple[str, ...]
    leaves: dict[str, Leaf]
    """Empty if the data was not read yet, or not all of it could be loaded."""


class Mirror(Frozen):
    """The content of ``mirror.json``."""

    schema_version: int = 1
    quantbench: str = __version__
    updated_at: str = ""
    datasets: dict[str, Dataset] = Field(default_factory=dict)
    """Data sets by repository."""
    nltk: Tables | None = None
    tasks: dict[str, TaskData] = Field(default_factory=dict)
    """Data by lm-eval's task name."""

    def folders(self) -> Iterator[tuple[str, dict[str, FileFact]]]:
        """Yield each folder of the mirror with the files that it must contain."""
        yield from ((repo, facts.files) for repo, facts in self.datasets.items())
        if self.nltk:
            yield NLTK, self.nltk.files


def read(hub_dir: Path) -> Mirror | None:
    """Return the content of ``mirror.json``; None for a folder without one, which may be a mirror made by hand.

    Raises:
        AccuracyError: it cannot be read.
    """
    file = hub_dir / MANIFEST
    if not file.exists():
        return None
    try:
        return Mirror.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else error.errors()[0]["msg"]
        raise AccuracyError(f"{file} cannot be read ({reason}): remove it and build the mirror again") from error


def write(hub_dir: Path, mirror: Mirror) -> None:
    """Write ``mirror.json`` atomically."""
    current = mirror.model_copy(update={"quantbench": __version__, "updated_at": utc_now()})
    write_atomic(hub_dir / MANIFEST, current.model_dump_json(indent=1) + "\n")


def file_problems(folder: Path, files: Mapping[str, FileFact]) -> list[str]:
    """Return which files of a folder are missing, truncated or changed, by size first and then by SHA-256."""
    problems = []
    for name, fact in files.items():
        file = folder / name
        size = file.stat().st_size if file.is_file() else None
        if size is None:
            problems.append(f"{file}: missing")
        elif size != fact.bytes:
            problems.append(f"{file}: {size} bytes, not {fact.bytes}")
        elif hash_file(file).sha256 != fact.sha256:
            problems.append(f"{file}: changed since it was fetched (SHA-256)")
    return problems


def all_file_problems(hub_dir: Path, mirror: Mirror) -> list[str]:
    """Return which files of a mirror differ from its ``mirror.json``."""
    return [problem for name, files in mirror.folders() for problem in file_problems(hub_dir / name, files)]
