"""Find the runs selected by a name: a run, a session, a variant, or a record file."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from bench.errors import ConfigError, StoreError, nearest
from bench.history.index import Index, RunRow
from bench.records.record import RunRecord

FORMS = "a run or its first characters, a session, MODEL/QUANT, QUANT, or a record file"


def read_record(file: Path) -> RunRecord:
    """Return the record in a file.

    Raises:
        StoreError: the file cannot be read or is not a record.
    """
    try:
        return RunRecord.model_validate_json(file.read_bytes())
    except OSError as error:
        raise StoreError(f"cannot read {file}: {error.strerror}") from error
    except ValidationError as error:
        raise StoreError(f"{file} is not a run record: {error.errors()[0]['msg']}") from error


def check_results(results_dir: Path) -> None:
    """Check that a results folder has runs.

    Raises:
        ConfigError: it has none.
    """
    if not (results_dir / "runs").is_dir():
        raise ConfigError(f"{results_dir / 'runs'} does not exist; set the results folder with --results DIR")


def open_index(results_dir: Path) -> Index:
    """Return the refreshed index of a results folder.

    Raises:
        ConfigError: the folder has no runs.
        StoreError: the index cannot be opened or written.
    """
    check_results(results_dir)
    index = Index(results_dir)
    try:
        index.refresh()
    except BaseException:
        index.close()
        raise
    return index


def rows_named(rows: Sequence[RunRow], name: str) -> list[RunRow]:
    """Return the finished runs selected by a name, newest first.

    A variant selects its newest run, a session all of its runs.

    Args:
        rows: all finished runs, newest first.
        name: one of ``FORMS``.

    Raises:
        ConfigError: the name is unknown or ambiguous.
    """
    model, _, quant = name.rpartition("/")
    variant = [row for row in rows if row.quant == quant and model in ("", row.model)]
    if len({row.model for row in variant}) > 1:
        models = " or ".join(sorted({f"{row.model}/{quant}" for row in variant}))
        raise ConfigError(f"'{name}' is a variant of several models: give {models}")
    exact = [row for row in rows if name in (row.run_id, row.session)]
    if exact or variant:
        return exact or variant[:1]
    matches = [row for row in rows if row.run_id.startswith(name)]
    if len(matches) > 1:
        raise ConfigError(f"'{name}' matches {len(matches)} runs: {', '.join(row.run_id for row in matches[:4])}")
    if not matches:
        known = [text for row in rows for text in (row.run_id, row.session, row.quant, f"{row.model}/{row.quant}")]
        raise ConfigError(f"no finished run is called '{name}'{nearest(name, known)} Give {FORMS}.")
    return matches


def records_named(results_dir: Path, name: str) -> list[RunRecord]:
    """Return the records selected by a name, oldest first.

    Raises:
        ConfigError: the name is unknown or ambiguous.
        StoreError: a record cannot be read.
    """
    file = Path(name)
    if file.suffix == ".json" and file.is_file():
        return [read_record(file)]
    index = open_index(results_dir)
    try:
        rows = rows_named(index.runs(), name)
    finally:
        index.close()
    return [read_record(results_dir / "runs" / row.run_id / "record.json") for row in reversed(rows)]
