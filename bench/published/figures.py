"""Published figures as data with their sources; they are never mixed with measured ones.

``quantbench published qwen3-8b`` prints them with the time per token and the share of the physical limit that follow
from them. Sources: results/published/README.md.
"""

import csv
import tomllib
from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import yaml
from pydantic import Field, PositiveFloat, PositiveInt

from bench.errors import ConfigError, nearest
from bench.limits.roofline import Limit, limit, weight_bytes
from bench.machine.peaks import lookup
from bench.paths import config_dir, published_dir
from bench.records.record import Device
from quantize.architecture import Architecture
from quantize.key import Frozen


class Page(Frozen):
    """One page of figures."""

    title: str
    page: str
    date: str | None = None
    """Of the measurement, if the page states it."""
    device: str | None = None
    """Its name in the driver."""
    hardware: str | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    setting: str | None = None
    settings: dict[str, str] = Field(default_factory=dict)
    """Settings of an engine, by name; cells without one ran with the page's default."""
    thinking: bool | None = None
    """Whether the models reasoned first; None if the page does not state it."""
    fewshot: dict[str, int] = Field(default_factory=dict)
    """Examples before each question, by task; only for tasks with a stated number."""
    counts: Literal["all", "generated"] | None = None
    """Tokens that its speeds divide by the time of the whole request."""
    output_len: PositiveInt | None = None
    traps: tuple[str, ...] = ()


class StoredWeights(Frozen):
    """How the releases of a quantization store their weights."""

    bits: PositiveFloat | None = None
    """Bits of a quantized weight, scales included; None for 16."""
    multiplied_in: str


class PublishedCell(Frozen):
    """One published speed at batch 1."""

    source: str
    model: str
    quant: str
    """Name in quantbench."""
    label: str
    """Name on the page."""
    engine: str
    input_len: int
    output_len: int
    devices: int
    memory_gb: float | None
    speed_tokens_per_s: float
    setting: str
    """Name of the engine's setting; empty for the page's default."""
    doubt: str
    """Why the figure is doubtful; empty if it is not. Doubtful cells enter no law."""
    note: str

    @property
    def remarks(self) -> str:
        """Setting, doubt and note as one line."""
        return "; ".join(text for text in (self.setting, self.doubt and f"doubtful: {self.doubt}", self.note) if text)

    @property
    def duration_s(self) -> float:
        """Time of the whole request, by the page's definition of speed."""
        counted = self.output_len + (self.input_len if sources()[self.source].counts == "all" else 0)
        return counted / self.speed_tokens_per_s

    @property
    def tpot_s(self) -> float | None:
        """Time per output token; only at input 1, where prefill takes almost no time."""
        return self.duration_s / self.output_len if self.input_len == 1 else None


class RoofShare(Frozen):
    """A published speed as shares of the physical limit of its device."""

    mbu: float | None
    """Model bandwidth utilisation of decoding, 0 to 1; only at input 1."""
    of_roof: float
    """Least time of the whole request / its time, 0 to 1."""


class PublishedScore(Frozen):
    """One published accuracy."""

    source: str
    model: str
    quant: str | None
    """Name in quantbench; None if it has none."""
    label: str
    """Name on the page."""
    task: str
    metric: str
    """Name in lm-eval."""
    score: float
    """0 to 1."""
    bf16_score: float | None
    """BF16's score on the same page, 0 to 1; None if it has none."""
    n_items: int | None


class Claim(Frozen):
    """A commonly quoted claim."""

    id: str
    says: str
    quants: tuple[str, ...]
    figure: Literal["accuracy", "speed"]
    above: float | None = None
    """Lower end of the range of the relative loss, or of the speed-up minus 1, as a share; None if it is open."""
    below: float | None = None
    """Upper end of the range, as a share; None if it is open."""


@cache
def _toml(name: str) -> dict[str, Any]:
    return tomllib.loads((published_dir() / name).read_text())


@cache
def sources() -> dict[str, Page]:
    """Return all pages, by short name."""
    return {name: Page.model_validate(fields) for name, fields in _toml("sources.toml")["source"].items()}


@cache
def formats() -> dict[str, StoredWeights]:
    """Return how the quantizations of published speeds are stored, by their name in quantbench."""
    return {name: StoredWeights.model_validate(fields) for name, fields in _toml("sources.toml")["format"].items()}


@cache
def claims() -> tuple[Claim, ...]:
    """Return the claims to test."""
    return tuple(Claim.model_validate(fields) for fields in _toml("claims.toml")["claim"])


def rows_of(name: str) -> list[dict[str, str]]:
    """Return the unparsed rows of a table."""
    with (published_dir() / name).open(newline="") as stream:
        return list(csv.DictReader(stream))


def _number(text: str) -> float | None:
    return float(text) if text else None


@cache
def cells() -> tuple[PublishedCell, ...]:
    """Return every published speed of a single request; one that a page prints twice only once.

    Rows without a length or without a speed are left out.
    """
    published = (
        PublishedCell(
            source=row["source"],
            model=row["model"],
            quant=row["quant"],
            label=row["label"],
            engine=row["engine"],
            input_len=int(row["input_len"]),
            output_len=sources()[row["source"]].output_len or 0,
            devices=int(row["devices"]),
            memory_gb=_number(row["memory_gb"]),
            speed_tokens_per_s=float(row["speed_tokens_per_s"]),
            setting=row["setting"],
            doubt=row["doubt"],
            note=row["note"],
        )
        for row in rows_of("speed.csv")
        if row["input_len"] and row["speed_tokens_per_s"]
    )
    return tuple(dict.fromkeys(published))


@cache
def scores() -> tuple[PublishedScore, ...]:
    """Return every published accuracy; the BF16 score of a row defaults to that of the page's BF16 row."""
    published = [
        PublishedScore(
            source=row["source"],
            model=row["model"],
            quant=row["quant"] or None,
            label=row["label"],
            task=row["task"],
            metric=row["metric"],
            score=float(row["score"]),
            bf16_score=_number(row["bf16_score"]),
            n_items=_toml("sources.toml")["n_items"].get(row["task"]),
        )
        for row in rows_of("accuracy.csv")
    ]
    plain = {(score.source, score.model, score.task): score.score for score in published if score.quant == "bf16"}
    return tuple(
        score.model_copy(update={"bf16_score": score.bf16_score or plain.get((score.source, score.model, score.task))})
        for score in published
    )


@cache
def architecture_of(model: str) -> Architecture | None:
    """Return the architecture in a model's config; None if there is no config of this name."""
    file = config_dir() / "model" / f"{model}.yaml"
    shapes = yaml.safe_load(file.read_text())["architecture"] if file.exists() else None
    return Architecture.model_validate(shapes) if shapes else None


def limit_of(cell: PublishedCell) -> Limit | None:
    """Return the physical limit of a published cell; None if its model or device is unknown."""
    shapes, stored = architecture_of(cell.model), formats()[cell.quant]
    name = sources()[cell.source].device
    device: Device | None = lookup(name) if name else None
    if shapes is None or device is None:
        return None
    return limit(
        shapes,
        weight_bytes(shapes, stored.bits),
        device,
        input_len=cell.input_len,
        output_len=cell.output_len,
        devices=cell.devices,
        multiplied_in=stored.multiplied_in,
    )


def share_of(cell: PublishedCell) -> RoofShare | None:
    """Return a published speed as shares of its limit; None if the limit is unknown."""
    roof = limit_of(cell)
    if roof is None:
        return None
    least = roof.roof_ttft_s + (cell.output_len - 1) * roof.roof_tpot_s
    mbu = roof.decode.memory_s / cell.tpot_s if cell.tpot_s else None
    return RoofShare(mbu=mbu, of_roof=least / cell.duration_s)


def table_of(model: str, engine: str | None) -> list[dict[str, Any]]:
    """Return the published speeds of a model as rows of plain values."""
    rows = []
    for cell in cells():
        if cell.model == model and engine in (None, cell.engine):
            share = share_of(cell)
            rows.append(
                {
                    **cell.model_dump(),
                    "remarks": cell.remarks,
                    "counts": sources()[cell.source].counts,
                    "seconds": cell.duration_s,
                    "tpot_s": cell.tpot_s,
                    "mbu": share.mbu if share else None,
                    "of_roof": share.of_roof if share else None,
                }
            )
    return rows


def published_named(name: str) -> list[PublishedCell]:
    """Return the published cells that match ``NAME``, ``NAME/QUANT``, or either with ``@ENGINE``.

    Args:
        name: such an expression; its NAME is a model or a source.

    Raises:
        ConfigError: none match.
    """
    plain, _, engine = name.partition("@")
    subject, _, quant = plain.partition("/")
    matches = [cell for cell in cells() if subject in (cell.model, cell.source)]
    if not matches:
        known = [*sorted({cell.model for cell in cells()}), *sources()]
        raise ConfigError(f"nothing published is called '{subject}'{nearest(subject, known)} Known: {', '.join(known)}")
    of: dict[str, tuple[str, Callable[[PublishedCell], str]]] = {
        "quantization": (quant, lambda cell: cell.quant),
        "engine": (engine, lambda cell: cell.engine),
    }
    for what, (wanted, name_of) in of.items():
        have = sorted(set(map(name_of, matches)))
        if wanted and wanted not in have:
            raise ConfigError(
                f"no {what} '{wanted}' among the published cells of {subject}; there is: {', '.join(have)}"
            )
        matches = [cell for cell in matches if wanted in ("", name_of(cell))]
    return matches
