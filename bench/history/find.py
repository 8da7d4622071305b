"""Find the runs that a typed name selects: a run, a session, a variant, or a record's file."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from bench.errors import ConfigError, StoreError, nearest
from bench.history.index import Index, RunRow
from bench.records.record import RunRecord

FORMS = "a run, the beginning of one, a session, MODEL/QUANT, QUANT, or the file of a record"


def read_record(file: Path) -> RunRecord:
    """Return the record in a file.

    Raises:
        StoreError: it cannot be read.
    """
    try:
        return RunRecord.model_validate_json(file.read_bytes())
    except OSError as error:
        raise StoreError(f"cannot read {file}: {error.strerror}") from error
    except ValidationError as error:
        raise StoreError(f"{file} is not a record of a run: {error.errors()[0]['msg']}") from error


def check_results(results_dir: Path) -> None:
    """Check that a results folder holds runs.

    Raises:
        ConfigError: it does not.
    """
    if not (results_dir / "runs").is_dir():
        raise ConfigError(f"{results_dir / 'runs'} is not there; name the results folder with --results DIR")


def open_index(results_dir: Path) -> Index:
    """Return the index of a results folder, up to date.

    Raises:
        ConfigError: there are no results in it.
        StoreError: the index cannot be made.
    """
    check_results(results_dir)
    index = Index(results_dir)
    index.refresh()
    return index


def rows_named(rows: Sequence[RunRow], name: str) -> list[RunRow]:
    """Return the ended runs that a name means, newest first.

    A variant's name means its newest run. A session means all of its runs.

    Args:
        rows: all ended runs, newest first.
        name: one of ``FORMS``.

    Raises:
        ConfigError: it means none, or several.
    """
    model, _, quant = name.rpartition("/")
    variant = [row for row in rows if row.quant == quant and model in ("", row.model)]
    if len({row.model for row in variant}) > 1:
        models = " or ".join(sorted({f"{row.model}/{quant}" for row in variant}))
        raise ConfigError(f"'{name}' is a variant of several models: say {models}")
    exact = [row for row in rows if name in (row.run_id, row.session)]
    if exact or variant:
        return exact or variant[:1]
    begun = [row for row in rows if row.run_id.startswith(name)]
    if len(begun) > 1:
        raise ConfigError(
            f"'{name}' is the beginning of {len(begun)} runs: {', '.join(row.run_id for row in begun[:4])}"
        )
    if not begun:
        known = [text for row in rows for text in (row.run_id, row.session, row.quant, f"{row.model}/{row.quant}")]
        raise ConfigError(f"no ended run is called '{name}'{nearest(name, known)} Give {FORMS}.")
    return begun


def records_named(results_dir: Path, name: str) -> list[RunRecord]:
    """Return the records that a name means, oldest first.

    Raises:
        ConfigError: it means none, or several.
        StoreError: a record cannot be read.
    """
    file = Path(name)
    if file.suffix == ".json" and file.is_file():
        return [read_record(file)]
    index = open_index(results_dir)
    try:
        chosen = rows_named(index.runs(), name)
    finally:
        index.close()
    return [read_record(results_dir / "runs" / row.run_id / "record.json") for row in reversed(chosen)]
