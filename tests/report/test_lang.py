"""The report in every language: every text comes from the catalogues, and only texts differ."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from babel.messages.pofile import read_po, write_po

from bench.analysis.baseline import with_baselines
from bench.history.index import RunRow
from bench.messages.message import LANGUAGES, Catalogue, Message, Words, catalogue, load, msg, po_file
from bench.nightly.course import JudgedNight, replay, standing_of
from bench.published import figures
from bench.records.record import Failure, RunRecord
from bench.report.document import Mark
from bench.report.page import render_in, write
from bench.report.plots.base import Point, Series, dots
from bench.report.plots.labels import worded
from bench.report.recorded import recorded
from bench.report.site_pages import Session, variant_page, write_index
from testkit.records import (
    cell,
    controlled_record,
    demo_records,
    device,
    moe_records,
    native_cell,
    native_record,
    native_records,
    paced,
    record,
    server,
    troubled_records,
    unharmed,
    with_score,
)
from testkit.scores import TASKS, score
from tests.support.accelerators import gpu_cells, gpu_record
from tests.support.blocks import scored
from tests.support.loads import OBJECTIVE, load_records, loaded
from tests.support.nights import run as night
from tests.support.pages import Page, rendered
from tests.support.published import H100, measured, ours

CHINESE = re.compile(r"[\u4e00-\u9fff]")
VISIBLE = ("title", "aria-label", "placeholder", "data-filter")
"""Attributes whose text is shown or read aloud."""
UNITS = {"BF", "GB", "MB", "MHz", "MJ", "TB", "UTC", "kB", "kJ", "ms", "nats", "pp", "tok/s"}
UNITS |= {"tokens/s", "items/s", "requests/s"}
NAMES = {"quantbench", "Python", "TPOT", "SHA", "True", "False", "mini", "on", "top", "min"}
NAMES |= {"speed.csv", "accuracy.csv", "records.jsonl.gz"}
STATUSES = {"ok", "emulated", "invalid", "not_supported", "failed"}
WORD = re.compile(r"[A-Za-z][A-Za-z/.]*[A-Za-z]")


class Visible(HTMLParser):
    """Every text that a reader of a page sees or hears, except what is there to be copied."""

    HIDDEN = ("style", "script", "code", "pre")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self._inside: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.texts += [value for name, value in attrs if name in VISIBLE and value]
        if tag in self.HIDDEN:
            self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._inside and self._inside[-1] == tag:
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if data.strip() and not self._inside:
            self.texts.append(data.strip())


def strings(value: Any) -> Iterator[str]:
    """Yield every text in nested values, but not the keys of mappings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from strings(list(value.values()))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from strings(inner)


def keys(value: Any) -> Iterator[str]:
    """Yield the keys of nested mappings, dotted as the page shows settings."""
    for name, nested in value.items() if isinstance(value, dict) else ():
        yield name
        yield from (f"{name}.{inner}" for inner in keys(nested))


def parts(words: Words) -> Iterator[str]:
    """Yield the values of a message that are names or figures."""
    for _, value in words.values if isinstance(words, Message) else ():
        yield from (value,) if isinstance(value, str) else parts(value)


def names_of(records: Sequence[RunRecord]) -> set[str]:
    """Return the texts that records hold: names, commands, and what engines and libraries reported."""
    texts: set[str] = set()
    for run in with_baselines(records):
        texts |= set(strings(json.loads(run.model_dump_json())))
        for names_and_values in (
            run.engine_info.reported(),
            run.environment.packages,
            run.environment.variables,
            run.stage_durations_s,
        ):
            texts |= set(names_and_values)
        if run.checkpoint:
            texts |= {*keys(run.checkpoint.quantization_config), *run.checkpoint.tensors_by_dtype}
            texts |= {*run.checkpoint.libraries, *(e.name.rpartition(".")[2] for e in run.checkpoint.layer_errors)}
        texts |= set(run.device.flops_per_s) if run.device else set()
    texts |= {part for text in tuple(texts) for part in parts(recorded(text))}
    return texts - STATUSES


def published_names() -> set[str]:
    """Return the texts of published figures, which are quoted from their files."""
    pages = [page.model_dump(mode="json") for page in figures.sources().values()]
    rows = [figure.model_dump(mode="json") for figure in (*figures.cells(), *figures.scores())]
    return set(strings([pages, rows]))


def foreign(html: str, names: set[str], known: set[str]) -> dict[str, list[str]]:
    """Return {text of the page: words in it that are neither known nor part of a name}."""
    texts = dict.fromkeys(Visible(html).texts)
    page = "\n".join(texts)
    shown = sorted((name for name in names if name in page and WORD.search(name)), key=len, reverse=True)
    pattern = re.compile("|".join(rf"(?<![A-Za-z]){re.escape(name)}(?![A-Za-z])" for name in shown))
    words_of = {}
    for text in texts:
        if text.startswith("python -m bench.run "):
            continue  # A command is to be copied too.
        inside = {place for name in pattern.finditer(text) for place in range(*name.span())}
        words = [word[0] for word in WORD.finditer(text) if not inside.issuperset(range(*word.span()))]
        if unknown := [word for word in words if word not in known]:
            words_of[text] = unknown
    return words_of


def open_loops(quant: str) -> RunRecord:
    fields = {"n_requests": 100, "concurrency": 256}
    rates = (
        loaded(quant, 1, request_rate_per_s=1.0, **fields),
        loaded(quant, 4, request_rate_per_s=4.0, saturated="the queue grew", **fields),
    )
    return record(quant, cells=rates, run_id=f"open-{quant}")


def on_engines() -> list[RunRecord]:
    """Return variants on two engines, one of which asked BF16 twice, and one score that cannot be compared."""
    records = []
    for engine in ("sglang", "vllm"):
        for quant in ("bf16", "fp8", "gptq-int4"):
            scores = [score(quant, task, engine=engine) for task in TASKS]
            if (engine, quant) == ("vllm", "gptq-int4"):
                scores[0] = scores[0].model_copy(update={"num_fewshot": 0})
            if (engine, quant) == ("vllm", "bf16"):
                scores += [score(quant, task, engine=engine, repeat=1) for task in TASKS]
            records.append(scored(quant, *scores, engine=engine, run_id=f"{quant}-{engine}"))
    return records


def verdicts() -> list[RunRecord]:
    """Return a variant that is worse, one that is non-inferior, and a task on which BF16 may be guessing."""
    many: dict[str, Any] = {"task": "mini-mmlu", "per_subject": 700}
    guess = score("bf16", "mini-ceval")
    (metric,) = guess.metrics
    guessed = guess.model_copy(update={"metrics": (metric.model_copy(update={"value": 0.26}),)})
    return [
        scored("bf16", score("bf16", **many), guessed),
        scored("gptq-int4", score("gptq-int4", **many, damage=2.0), score("gptq-int4", "mini-ceval")),
        scored("gptq-int8", score("gptq-int8", **many, damage=0.0)),
    ]


def incomplete() -> list[RunRecord]:
    """Return variants of which a task is invalid, not measured or failed, under different margins."""
    both = ("mini-mmlu", "mini-ceval")
    looping = with_score(unharmed("gptq-int4", tasks=both), "mini-ceval", status="invalid", reasons=("no text",))
    stopped = unharmed("gptq-int8", failures=(Failure(stage="accuracy", message="out of memory"),))
    more = (*both, "mini-ifeval")
    return [unharmed("bf16", tasks=both), unharmed("fp8", margin=0.02, tasks=more), looping, stopped]


def broken_baseline() -> list[RunRecord]:
    """Return a variant whose BF16 run has no valid score of a task."""
    both = ("mini-mmlu", "mini-ceval")
    return [with_score(unharmed("bf16", tasks=both), "mini-ceval", status="failed"), unharmed("fp8", tasks=both)]


def warned() -> list[RunRecord]:
    """Return cells with warnings, of shapes that BF16 lacks, and one slower than BF16's."""
    marks = {"warnings": ("trial 2 is an outlier",), "unproven": ("cached tokens",)}
    slow = paced(native_cell("bf16", 1), 1.3).model_copy(update={"variant": native_record("fp8").variant})
    return [
        native_record(
            cells=(native_cell("bf16", 1, **marks), native_cell("bf16", 256, request_rate_per_s=2.5, n_requests=64))
        ),
        native_record("fp8", cells=(slow, native_cell("fp8", 512, **marks))),
        record("gptq-int8", spec=native_record().spec, device=device(), server=server(), engine="vllm"),
    ]


def histories() -> dict[str, tuple[JudgedNight, ...]]:
    quiet = [night(day) for day in range(25)]
    return {
        "smollm2-135m fp8 in256 decode": replay([*quiet, night(25, -0.08)]),
        "smollm2-135m fp8 in256 prefill": replay([*quiet, *(night(day, epoch="b") for day in range(25, 28))]),
    }


Records = Callable[[], list[RunRecord]]
SETS: dict[str, tuple[Records, Mapping[str, Sequence[JudgedNight]]]] = {
    "native": (lambda: [*native_records(), controlled_record()], histories()),
    "troubled": (troubled_records, {}),
    "experts": (moe_records, {}),
    "load": (lambda: [*load_records(objective=OBJECTIVE), open_loops("bf16"), open_loops("fp8")], {}),
    "accelerators": (lambda: [gpu_record(), gpu_record("fp8", cells=gpu_cells("fp8", "emulated"))], {}),
    "engines": (on_engines, {}),
    "verdicts": (verdicts, {}),
    "incomplete": (incomplete, {}),
    "broken baseline": (broken_baseline, {}),
    "no accuracy": (lambda: [native_record(quant, scores=()) for quant in ("bf16", "fp8")], {}),
    "warned": (warned, {}),
    "published": (
        lambda: [
            measured(190, device=H100),
            record("bf16", "qwen2-7b-instruct", cells=(cell("bf16", 1, output_len=1),), scores=(ours(),)),
        ],
        {},
    ),
}


@pytest.fixture(scope="module")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    """Return the English wordings without Latin letters: a letter on a page then comes from elsewhere."""
    with po_file("en").open("rb") as file:
        entries = read_po(file)

    def blanked(wording: str) -> str:
        return re.sub(r"\{\w+\}|[A-Za-z]", lambda match: match[0] if match[0][0] == "{" else "¤", wording)

    for entry in entries:
        if entry.id:
            forms = entry.string
            entry.string = tuple(map(blanked, forms)) if isinstance(forms, tuple) else blanked(forms)
    target = tmp_path_factory.mktemp("blank") / "blank.po"
    with target.open("wb") as file:
        write_po(file, entries)
    return load(target, "blank")


@pytest.mark.parametrize("name", SETS)
def test_every_text_of_a_page_comes_from_the_catalogue(name: str, blank: Catalogue) -> None:
    make, nights = SETS[name]
    records = make()
    html = render_in(blank, records, title="t", histories=nights)
    assert foreign(html, names_of(records) | published_names() | set(nights), UNITS | NAMES) == {}


def test_every_text_of_a_site_comes_from_the_catalogue(tmp_path: Path, blank: Catalogue) -> None:
    nights, key = histories(), ("smollm2-135m", "fp8", "transformers")
    row = RunRow(
        run_id="run-1",
        session="session-1",
        model=key[0],
        quant=key[1],
        engine=key[2],
        hostname="bench-01",
        device=None,
        epoch="a",
        started_at="2026-11-24T02:00:00+00:00",
        finished_at=None,
        failures=1,
        cells=3,
        scores=2,
    )
    variant = variant_page(
        tmp_path, key, {name: standing_of(history) for name, history in nights.items()}, nights, blank
    )
    alone = variant_page(tmp_path, (*key[:2], "vllm"), {}, {}, blank)
    for alarms in ([variant, alone], [alone]):
        write_index(tmp_path, [Session("session-1", (row,), "session-1.html")], alarms, blank)
        for page in tmp_path.glob("*.html"):
            names = {*key, "vllm", "session-1", *nights}
            assert foreign(page.read_text(), names, UNITS | NAMES) == {}


@pytest.mark.parametrize("name", ["native", "troubled", "load"])
def test_a_chinese_page_has_no_english(name: str) -> None:
    make, nights = SETS[name]
    records = make()
    with po_file("zh").open("rb") as file:
        known = {word for entry in read_po(file) for word in WORD.findall(str(entry.string))}
    html = rendered(records, lang="zh", histories=nights)
    assert '<html lang="zh-Hans">' in html
    assert foreign(html, names_of(records) | set(nights), UNITS | NAMES | known) == {}
    titles = re.findall(r"<h2[^>]*>([^<]+)</h2>", html)
    assert [title for title in titles if not CHINESE.search(title)] == []


def test_no_wording_of_another_language_is_english() -> None:
    with po_file("zh").open("rb") as file:
        wordings = [str(entry.string) for entry in read_po(file) if entry.id]
    assert len(wordings) > 600
    sentence = re.compile(r"[A-Za-z]{3,} [A-Za-z]{2,} [A-Za-z]{2,}")
    assert [text for text in wordings if sentence.search(re.sub(r"\{\w+\}", "1", text))] == []


def test_figures_names_and_structure_are_the_same_in_both_languages() -> None:
    english, chinese = (Page(rendered(demo_records(), lang=lang)) for lang in LANGUAGES)
    assert [tag for tag, _ in english.tags] == [tag for tag, _ in chinese.tags]
    assert english.ids() == chinese.ids()
    figures_of = re.compile(r"\d+\.\d{2,}")
    assert sorted(figures_of.findall(english.text)) == sorted(figures_of.findall(chinese.text))


def test_a_drawing_has_the_same_layout_in_both_languages() -> None:
    rows = [
        Series("decode", Mark(0, "o"), (Point(0, 0.5, 0.4, 0.6),)),
        Series(msg("plot.trial_time"), Mark(1, "s"), ()),
    ]
    drawing = dots(rows, name="d", description=msg("page.legend"), xlabel=msg("plot.relative_error"))
    chinese = worded(drawing, catalogue("zh"))
    assert worded(drawing, catalogue("en")) == drawing.svg
    for words in (">decode</text>", ">自试验开始</text>", ">相对输出误差</text>", 'aria-label="图例"'):
        assert words in chinese
    shape = re.compile(r'>[^<]+</text>|aria-label="[^"]*"')
    assert shape.sub("", chinese) == shape.sub("", drawing.svg)


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    first = write(troubled_records(), tmp_path / "a.html", title="t", lang="zh").read_bytes()
    assert first == write(troubled_records(), tmp_path / "b.html", title="t", lang="zh").read_bytes()
