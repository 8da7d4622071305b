"""Published figures: every row is read, and what follows from it agrees with values computed by hand."""

import csv
import json
from collections import Counter
from itertools import pairwise

import pytest

from bench.commands.published import main
from bench.config.compose import compose_job, names
from bench.paths import published_dir
from bench.published.figures import (
    PublishedCell,
    cells,
    formats,
    limit_of,
    rows_of,
    scores,
    share_of,
    sources,
    table_of,
)
from tests.support.published import published, shapes

NO_CONFIG = {"qwen2-57b-a14b-instruct"}
"""Published models that are not offered here."""


def test_every_row_of_every_page_is_kept() -> None:
    rows = Counter(row["source"] for row in (*rows_of("speed.csv"), *rows_of("accuracy.csv")))
    assert rows == {
        "qwen3-speed": 216,
        "qwen2.5-speed": 259,
        "qwen2-speed": 167,
        "qwen2-quantization": 48,
        "auto-round-fp8-block": 6,
        "auto-round-opt-rtn": 10,
        "fpquant-card": 2,
        "silybench": 4,
    }
    assert set(rows) == set(sources())


def test_every_row_is_read_unless_it_says_why_not() -> None:
    rows = rows_of("speed.csv")
    unread = [row for row in rows if not row["input_len"] or not row["speed_tokens_per_s"]]
    assert len(unread) == 8
    assert all(row["note"] for row in unread)
    twice = [row for row in rows if row["note"] == "printed twice"]
    assert len(twice) == 8
    assert len(cells()) == len(set(cells())) == len(rows) - len(unread) - 4
    assert len(scores()) == len(rows_of("accuracy.csv"))


@pytest.mark.parametrize("file", sorted(path.name for path in published_dir().glob("*.csv")))
def test_the_tables_are_plain_csv(file: str) -> None:
    text = (published_dir() / file).read_text()
    assert not text.startswith("\ufeff")
    assert next(csv.reader(text.splitlines()))[0] == "source"
    assert len({len(row) for row in csv.reader(text.splitlines())}) == 1


def test_every_model_has_a_config_and_every_quantization_a_name() -> None:
    models = {each.model for each in cells()} | {each.model for each in scores()}
    assert models - set(names("model")) == NO_CONFIG
    quants = {each.quant for each in cells()} | {each.quant for each in scores() if each.quant}
    assert quants <= set(names("quant"))
    assert {each.quant for each in cells()} == set(formats())
    for model in models - NO_CONFIG:
        assert shapes(model) == compose_job([f"+model={model}"]).model.architecture


def test_every_setting_is_explained() -> None:
    for cell in cells():
        assert not cell.setting or cell.setting in sources()[cell.source].settings
    for name, source in sources().items():
        assert set(source.settings) == {cell.setting for cell in cells() if cell.source == name and cell.setting}


def test_every_speed_is_below_the_roof() -> None:
    for cell in cells():
        if cell.model not in NO_CONFIG:
            share = share_of(cell)
            assert share is not None
            assert 0 < share.of_roof < 1, cell


def test_a_longer_prompt_takes_longer_unless_the_cell_is_doubted() -> None:
    places: dict[tuple[object, ...], list[PublishedCell]] = {}
    for cell in cells():
        places.setdefault((cell.source, cell.model, cell.engine, cell.label, cell.devices), []).append(cell)
    for place in places.values():
        for shorter, longer in pairwise(sorted(place, key=lambda cell: cell.input_len)):
            assert longer.doubt or longer.duration_s > 0.95 * shorter.duration_s, longer
    assert len([cell for cell in cells() if cell.doubt]) == 4


@pytest.mark.parametrize(
    ("label", "tpot_ms", "mbu", "weights_gb"),
    [("BF16", 12.24, 31.2, 15.14), ("FP8", 6.66, 31.3, 8.19), ("AWQ-INT4", 6.94, 18.0, 4.85)],
)
def test_qwen3_8b_on_sglang_at_input_1(label: str, tpot_ms: float, mbu: float, weights_gb: float) -> None:
    cell = published("qwen3-8b", label, "sglang", 1)
    share, limit = share_of(cell), limit_of(cell)
    assert cell.tpot_s is not None
    assert share is not None
    assert share.mbu is not None
    assert limit is not None
    assert 1e3 * cell.tpot_s == pytest.approx(tpot_ms, abs=0.005)
    assert 100 * share.mbu == pytest.approx(mbu, abs=0.05)
    assert (limit.traffic.linear_bytes + limit.traffic.rest_bytes) / 1e9 == pytest.approx(weights_gb, abs=0.005)


def test_the_traps_of_the_pages_are_handled() -> None:
    assert 129042 not in {cell.input_len for cell in cells()}
    assert published("qwen3-32b", "BF16", "sglang", 129024).devices == 2
    assert published("qwen3-32b", "BF16", "sglang", 63488).devices == 1
    generated = published("qwen2.5-7b-instruct", "BF16", "vllm", 6144)
    assert generated.duration_s == pytest.approx(2048 / 80.70)
    both = published("qwen3-8b", "BF16", "sglang", 6144)
    assert both.duration_s == pytest.approx((6144 + 2048) / 296.25)
    assert published("qwen3-8b", "BF16", "transformers", 1).memory_gb == 15.947
    assert published("qwen2.5-7b-instruct", "BF16", "transformers", 1).memory_gb == 14.38


def test_bf16_was_slow_on_sglang_as_the_traps_say() -> None:
    for model, gain, fewer_bytes in (("qwen3-32b", 2.23, 1.94), ("qwen3-14b", 2.06, 1.88)):
        plain, fp8 = published(model, "BF16", "sglang", 1), published(model, "FP8", "sglang", 1)
        limits = limit_of(plain), limit_of(fp8)
        assert limits[0] is not None
        assert limits[1] is not None
        assert plain.duration_s / fp8.duration_s == pytest.approx(gain, abs=0.005)
        assert limits[0].traffic.total_bytes / limits[1].traffic.total_bytes == pytest.approx(fewer_bytes, abs=0.005)


def test_the_command_prints_what_was_published(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["qwen3-8b", "--engine", "sglang"]) == 0
    text = capsys.readouterr().out
    for figure in ("31.2 %", "31.3 %", "18.0 %", "12.24 ms", "published, not measured here", "129042"):
        assert figure in text
    assert main([]) == 0
    assert "qwen3-8b" in capsys.readouterr().out.split()


def test_the_command_explains_settings_and_doubts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["qwen2.5-72b-instruct", "--engine", "vllm"]) == 0
    text = capsys.readouterr().out
    assert "doubtful" in text
    assert "Setting 2: enforce_eager=True" in text


@pytest.mark.parametrize("form", ["csv", "json"])
def test_the_command_gives_every_figure_to_other_programs(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["qwen3-8b", "--format", form]) == 0
    text = capsys.readouterr().out
    rows = json.loads(text) if form == "json" else list(csv.DictReader(text.splitlines()))
    expected = table_of("qwen3-8b", None)
    assert len(rows) == len(expected) == 30
    assert [float(row["seconds"]) for row in rows] == [row["seconds"] for row in expected]
    assert list(rows[0]) == list(expected[0])


def test_an_unpublished_name_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["qwen3-9b"]) == 2
    assert "did you mean 'qwen3-8b'?" in capsys.readouterr().err
    assert main(["qwen3-8b", "--engine", "vllm"]) == 2
    assert "no published speeds of qwen3-8b on vllm; known engines: sglang, transformers" in capsys.readouterr().err


@pytest.mark.parametrize("model", [name for name in names("model") if name.startswith("qwen3")])
def test_the_published_setting_composes_for_every_qwen3(model: str) -> None:
    spec = compose_job([f"+model={model}", "experiment=qwen3-speed-benchmark"])
    fields = spec.engine.config.model_dump()
    assert (spec.engine.name, fields["mem_fraction_static"], fields["context_length"]) == ("sglang", 0.85, 140000)
    assert fields["mixed_chunk"]
    assert fields["skip_tokenizer_init"]
    assert spec.context_length == 131072
    assert (spec.yarn is None) == model.endswith("-2507")
    lengths = {cell.input_len for cell in cells() if cell.source == "qwen3-speed"}
    assert set(spec.workload.input_lens) == lengths
    assert spec.workload.output_len == sources()["qwen3-speed"].output_len
    assert spec.workload.trials >= 3
    assert not spec.accuracy.tasks


@pytest.mark.parametrize("model", [name for name in names("model") if name.startswith("qwen2")])
def test_the_published_tasks_compose_for_every_qwen2(model: str) -> None:
    spec = compose_job([f"+model={model}", "experiment=qwen2-quantization-benchmark"])
    assert set(spec.accuracy.tasks) == {score.task for score in scores() if score.source == "qwen2-quantization"}
    assert spec.accuracy.limit is None
    assert not spec.workload.input_lens
