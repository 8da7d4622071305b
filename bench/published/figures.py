"""Figures that others published, as data with their source; never mixed with measured ones.

``quantbench published qwen3-8b`` prints them with what each means: the time of a token, and the share of what the
device allows. results/published/README.md says where they are from.
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
    """Of the measurement, where it is told."""
    device: str | None = None
    """As its driver calls it."""
    hardware: str | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    setting: str | None = None
    settings: dict[str, str] = Field(default_factory=dict)
    """Of an engine, by name; cells without one ran at the page's default."""
    thinking: bool | None = None
    """Whether the models reasoned first; None where that is not told."""
    fewshot: dict[str, int] = Field(default_factory=dict)
    """Examples before each question, by task; only where they are told."""
    counts: Literal["all", "generated"] | None = None
    """Tokens that its speeds count over the time of the whole request."""
    output_len: PositiveInt | None = None
    traps: tuple[str, ...] = ()


class StoredWeights(Frozen):
    """How the releases of a quantization store their weights."""

    bits: PositiveFloat | None = None
    """Of a quantized weight, scales included; None for 16."""
    multiplied_in: str


class PublishedCell(Frozen):
    """One published speed: batch 1."""

    source: str
    model: str
    quant: str
    """Our name."""
    label: str
    """Theirs."""
    engine: str
    input_len: int
    output_len: int
    devices: int
    memory_gb: float | None
    speed_tokens_per_s: float
    setting: str
    """The engine's, by name; empty for the page's default."""
    doubt: str
    """Why the figure is not to be believed as it stands; empty where it is. Doubted ones enter no law."""
    note: str

    @property
    def remarks(self) -> str:
        """Everything to be said of it."""
        return "; ".join(text for text in (self.setting, self.doubt and f"doubtful: {self.doubt}", self.note) if text)

    @property
    def duration_s(self) -> float:
        """Time of the whole request, from the speed's own definition."""
        counted = self.output_len + (self.input_len if sources()[self.source].counts == "all" else 0)
        return counted / self.speed_tokens_per_s

    @property
    def tpot_s(self) -> float | None:
        """Time per output token; only at input 1, where the prompt takes next to nothing."""
        return self.duration_s / self.output_len if self.input_len == 1 else None


class RoofShare(Frozen):
    """A published speed against the physical limit of its device."""

    mbu: float | None
    """Model bandwidth utilisation of decoding, 0 to 1; only at input 1."""
    of_roof: float
    """Least time of the whole request / its time, 0 to 1."""


class PublishedScore(Frozen):
    """One published accuracy."""

    source: str
    model: str
    quant: str | None
    """Our name; None where there is none."""
    label: str
    """Theirs."""
    task: str
    metric: str
    """lm-eval's name."""
    score: float
    """0 to 1."""
    bf16_score: float | None
    """Of the same page, 0 to 1; None where it prints none."""
    n_items: int | None


class Claim(Frozen):
    """A sentence that is repeated everywhere."""

    id: str
    says: str
    quants: tuple[str, ...]
    figure: Literal["accuracy", "speed"]
    above: float | None = None
    """Relative loss, or speed-up minus 1, as a share, from which the claim holds; None without such an end."""
    below: float | None = None
    """The same, as a share, up to which it holds."""


@cache
def _toml(name: str) -> dict[str, Any]:
    return tomllib.loads((published_dir() / name).read_text())


@cache
def sources() -> dict[str, Page]:
    """Return every page, by its short name."""
    return {name: Page.model_validate(fields) for name, fields in _toml("sources.toml")["source"].items()}


@cache
def formats() -> dict[str, StoredWeights]:
    """Return how timed quantizations are stored, by our name."""
    return {name: StoredWeights.model_validate(fields) for name, fields in _toml("sources.toml")["format"].items()}


@cache
def claims() -> tuple[Claim, ...]:
    """Return the sentences to hold figures against."""
    return tuple(Claim.model_validate(fields) for fields in _toml("claims.toml")["claim"])


def rows_of(name: str) -> list[dict[str, str]]:
    """Return the rows of a table as they stand in its file."""
    with (published_dir() / name).open(newline="") as stream:
        return list(csv.DictReader(stream))


def _number(text: str) -> float | None:
    return float(text) if text else None


@cache
def cells() -> tuple[PublishedCell, ...]:
    """Return every published speed of one request, once where a page prints it twice.

    Rows without a length or without a speed have none.
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
    """Return every published accuracy. A page's own BF16 row stands for the BF16 score of its other rows."""
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
    """Return the shapes of a model from its config; None where there is no config of this name."""
    file = config_dir() / "model" / f"{model}.yaml"
    shapes = yaml.safe_load(file.read_text())["architecture"] if file.exists() else None
    return Architecture.model_validate(shapes) if shapes else None


def limit_of(cell: PublishedCell) -> Limit | None:
    """Return the physical limit of a published cell; None where its model or device is not known."""
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
    """Return a published speed as shares of the limit; None where that is not known."""
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
    """Return the published cells that ``NAME``, ``NAME/QUANT`` or either with ``@ENGINE`` means.

    Args:
        name: of a model or of a source, without ``published:``.

    Raises:
        ConfigError: there are none.
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
