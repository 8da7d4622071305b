"""Texts for calibration and comparison: named sets, each a small file in ``data/sets``, and the user's own files.

A named set is looked up in a local mirror of the hub (``QUANTBENCH_HUB``) and then on the hub, where its revision is
resolved to a commit and only one file is fetched. Does not import torch, transformers or datasets.
"""

import os
import tomllib
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, PositiveInt

from quantize import hub
from quantize.checkpoint import CheckpointError
from quantize.hashes import remembered_sha256
from quantize.key import Frozen
from quantize.rows import SUFFIXES

DATA = Path(__file__).resolve().parent / "data"
SETS = DATA / "sets"

Use = Literal["calibration", "heldout"]
FIELD: dict[Use, str] = {"calibration": "calibration.set", "heldout": "calibration.heldout.set"}
"""Config field that chooses the text."""


class CalibrationConfig(Frozen):
    """The text that a method is calibrated on, and how much of it."""

    set: str
    """A name from ``data/sets``, or a path to a file of text; see :func:`quantize.rows.read`."""
    n_samples: PositiveInt
    max_seq_len: int = Field(ge=16)
    """Tokens per sample."""
    enable_thinking: bool = False
    """Argument of the chat template, for sets of chats."""


class HeldoutConfig(Frozen):
    """The text that fidelity is measured on, and how much of it. It is never used for calibration."""

    set: str
    """As for calibration; a named set has a separate file for this."""
    n_samples: PositiveInt | None
    """Number of windows from the start of the text; None for all."""
    max_seq_len: int = Field(ge=16)
    """Tokens per window."""


class SetSpec(Frozen):
    """A named set, as described by its file in ``data/sets``."""

    title: str
    repo: str | None = None
    """Data set on the hub; None for files that come with quantbench."""
    revision: str = "main"
    calibration: str
    """File for calibration: a glob over the paths in the repository, whose first match is used."""
    heldout: str
    """File for measuring fidelity."""
    column: str | None = None
    """Field with the text or the messages; None for ``text``, or else ``messages``."""
    lines: bool = False
    """Whether rows are lines of running text, which are joined into passages."""

    @classmethod
    def load(cls, name: str) -> Self:
        """Return the set called ``name``."""
        return cls.model_validate(tomllib.loads((SETS / f"{name}.toml").read_text(encoding="utf-8")))


class HubFile(Frozen):
    """One file of a data set on the hub, at a commit."""

    repo: str
    commit: str
    file: str


class TextFile(Frozen):
    """The file that is read."""

    name: str
    """Display name: the set's or the file's."""
    source: str
    """Origin of the text, in one sentence."""
    where: Path | HubFile
    column: str | None = None
    lines: bool = False

    def identity(self) -> dict[str, Any]:
        """Return what determines the bytes: repository, commit and path on the hub, or else the file's SHA-256."""
        if isinstance(self.where, HubFile):
            return self.where.model_dump()
        return {"sha256": remembered_sha256(self.where)}

    def fetch(self) -> Path:
        """Return the local file, downloading it at its commit if it is on the hub.

        Raises:
            CheckpointError: it is unavailable.
        """
        if isinstance(self.where, Path):
            return self.where
        try:
            return hub.download(self.where.repo, self.where.commit, self.where.file, "dataset")
        except hub.HubError as error:
            raise CheckpointError(f"text of '{self.name}': {error}") from error


def set_names() -> list[str]:
    """Return the names of all sets, in order."""
    return sorted(file.stem for file in SETS.glob("*.toml"))


def _mirrored(repo: str, pattern: str) -> Path | None:
    mirror = os.environ.get("QUANTBENCH_HUB")
    files = sorted((Path(mirror).expanduser() / repo).glob(pattern)) if mirror else []
    return files[0] if files else None


def _own_file(name: str, use: Use) -> TextFile:
    path = Path(name).expanduser()
    if not path.is_file():
        raise CheckpointError(
            f"{use} set '{name}': no such file; use {FIELD[use]}=embedded, another of {', '.join(set_names())}, "
            "or a path to a file of text"
        )
    if not path.name.endswith(SUFFIXES):
        raise CheckpointError(f"{use} set '{name}': unknown kind of file; supported are {', '.join(SUFFIXES)}")
    return TextFile(name=path.name, source=f"the file {path.name}", where=path)


def _on_hub(name: str, spec: SetSpec, pattern: str, use: Use) -> HubFile:
    assert spec.repo is not None
    try:
        commit, file = hub.find_dataset_file(spec.repo, spec.revision, pattern)
    except hub.HubError as error:
        raise CheckpointError(
            f"{use} set '{name}': {error}; use {FIELD[use]}=embedded, a file of text, or a local mirror of the hub "
            "(QUANTBENCH_HUB)"
        ) from error
    return HubFile(repo=spec.repo, commit=commit, file=file)


def _named(name: str, use: Use, pinned: dict[str, Any] | None) -> TextFile:
    spec = SetSpec.load(name)
    pattern = spec.calibration if use == "calibration" else spec.heldout
    where: Path | HubFile
    if spec.repo is None:
        where, source = DATA / pattern, spec.title
    elif not (pinned and "commit" in pinned) and (mirrored := _mirrored(spec.repo, pattern)) is not None:
        where, source = mirrored, f"{spec.title}: {spec.repo} {mirrored.name} in a local mirror of the hub"
    else:
        is_pinned = pinned and "commit" in pinned
        where = HubFile.model_validate(pinned) if is_pinned else _on_hub(name, spec, pattern, use)
        source = f"{spec.title}: {where.repo}@{where.commit} {where.file}"
    return TextFile(name=name, source=source, where=where, column=spec.column, lines=spec.lines)


def locate(name: str, use: Use, pinned: dict[str, Any] | None = None) -> TextFile:
    """Return the file of a set's name or path. Asks the hub at most for its commit and path.

    Args:
        name: a set's name, or a path.
        use: purpose of the text; named sets have a file for each.
        pinned: an earlier identity, which the file must still have.

    Raises:
        CheckpointError: the file does not exist, is unreachable, or no longer has the identity ``pinned``.
    """
    text = _named(name, use, pinned) if name in set_names() else _own_file(name, use)
    if pinned and text.identity() != pinned:
        raise CheckpointError(f"{use} set '{name}' changed after the run was planned: start the run again")
    return text
