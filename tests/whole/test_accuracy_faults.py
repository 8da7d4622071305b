"""Whole runs of accuracy tasks over a faulty server: each question is asked once, and every count is right."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

import bench.engines
from bench.config.compose import compose_job
from bench.pipeline.execute import execute
from bench.plan.stages import plan
from bench.records.record import RunRecord, TaskScore
from tests.support.accuracy_jobs import job, score
from tests.support.examinee import Plan, answering, logged, starts_of
from tests.support.paths import ROOT
from tests.support.runs import checkpoint_of

pytest.importorskip("lm_eval")
pytestmark = pytest.mark.filterwarnings("ignore")  # warnings of lm-eval and datasets

ENGINE = """name: scripted
script: ???
server: tests.support.examinee
kernel: one
startup_timeout_s: 100
request_timeout_s: 60
first_token_timeout_s: 40
stall_timeout_s: 40
"""
TASKS = "accuracy.tasks=[mini-mmlu,mini-ceval]"
TOTAL = 64 + 48


class Runs:
    """Runs of the same command, each over a server with its own plan."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plan = folder / "plan.json"
        configs = folder / "configs"
        (configs / "engine").mkdir(parents=True)
        (configs / "engine" / "scripted.yaml").write_text(ENGINE)
        self.configs = [str(configs)]

    def typed(self, *overrides: str) -> list[str]:
        return [
            "+model=tiny-qwen3", "engine=scripted", f"engine.script={self.plan}", "workload=none", TASKS,
            "accuracy.concurrency=4", "accuracy.hub_dir=null", f"results_dir={self.folder / 'results'}",
            "session=test", *overrides,
        ]  # fmt: skip

    def __call__(self, plan: Plan, *overrides: str) -> RunRecord:
        plan.write(self.plan)
        record = execute(compose_job(self.typed(*overrides), self.configs))
        left = [
            process for process in psutil.process_iter(["cmdline"]) if str(self.plan) in (process.info["cmdline"] or ())
        ]
        assert left == [], "processes are left"
        return record

    def asked(self) -> list[str]:
        """Return the questions that the last run's servers received."""
        return logged(self.plan, "asked")

    def answered(self) -> list[str]:
        return logged(self.plan, "answered")

    def starts(self) -> int:
        return len(starts_of(self.plan).read_text()) if starts_of(self.plan).exists() else 0

    def journal(self) -> list[Path]:
        return sorted(self.folder.glob("results/runs/*/answers/*.jsonl"))


@pytest.fixture
def runs(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    monkeypatch.setattr(
        bench.engines, "__path__", [*bench.engines.__path__, str(ROOT / "tests" / "support" / "engines")]
    )
    monkeypatch.setattr("bench.machine.child.TERM_S", 1.0)
    monkeypatch.setattr(
        "bench.pipeline.execute.find_device", lambda run, engine: None
    )  # takes seconds and is needed for speed only
    monkeypatch.setenv("QUANTBENCH_CACHE", str(cache))
    return Runs(tmp_path)


def by_task(record: RunRecord) -> dict[str, TaskScore]:
    return {score.task: score for score in record.scores}


@pytest.fixture
def faultless(cache: Path, tmp_path: Path) -> Callable[[RunRecord], None]:
    """Return a check that the scores of a run are those of a server without a fault."""

    def check(record: RunRecord) -> None:
        folder = checkpoint_of(cache, record)
        assert {measured.status for measured in record.scores} == {"ok"}, record.scores
        with answering() as server:
            for task, measured in by_task(record).items():
                expected = score(job(server.url, folder, tmp_path / "faultless", task, limit=measured.limit))
                assert (measured.items, measured.metrics) == (expected.items, expected.metrics)

    return check


@pytest.mark.timeout(600)
def test_a_server_that_dies_is_restarted_and_each_question_is_answered_once(
    runs: Runs, faultless: Callable[[RunRecord], None]
) -> None:
    record = runs(Plan(die_at=[40]))
    assert not record.failures
    assert runs.starts() == 2
    assert len(runs.answered()) == len(set(runs.answered())) == TOTAL
    assert TOTAL < len(runs.asked()) <= TOTAL + 4, "only open requests are asked again"
    assert any("ended with code 9" in line and "restarting it for the rest" in line for line in record.log)
    faultless(record)


@pytest.mark.timeout(600)
def test_a_server_that_dies_twice_fails_the_run_and_the_next_run_asks_the_rest(
    runs: Runs, faultless: Callable[[RunRecord], None]
) -> None:
    record = runs(Plan(die_at=[70, 1]))
    assert runs.starts() == 2, "no endless loop"
    assert [failure.stage for failure in record.failures] == ["accuracy"]
    assert set(by_task(record)) == {"mini-mmlu"}
    answered = len(runs.answered())
    assert 64 < answered < 70
    again = runs(Plan())
    assert not again.failures
    assert any("mini-mmlu: reused" in line for line in again.log)
    assert len(runs.asked()) == len(set(runs.asked())) == TOTAL - answered
    faultless(again)


@pytest.mark.timeout(600)
def test_killed_at_any_item_the_next_run_asks_only_the_rest(runs: Runs, faultless: Callable[[RunRecord], None]) -> None:
    script = (
        "import sys, bench.engines\nbench.engines.__path__.append(sys.argv[1])\n"
        "from bench.config.compose import compose_job\nfrom bench.pipeline.execute import execute\n"
        "execute(compose_job(sys.argv[3:], [sys.argv[2]]))\n"
    )
    Plan(delay_s=0.05).write(runs.plan)
    argv = [sys.executable, "-c", script, str(ROOT / "tests" / "support" / "engines"), *runs.configs, *runs.typed()]
    run = subprocess.Popen(argv, cwd=runs.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 300
    while len(runs.answered()) < 30:
        assert run.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    run.kill()
    run.wait()
    evaluation = "bench.accuracy.evaluate"
    while any(
        evaluation in (process.info["cmdline"] or ()) and str(runs.folder) in str(process.info["cmdline"])
        for process in psutil.process_iter(["cmdline"])
    ):
        time.sleep(0.05)
    (journal,) = runs.journal()
    lines = journal.read_bytes().splitlines(keepends=True)
    assert 30 <= len(lines) < TOTAL
    # A crash of the machine may leave a damaged line among the others, and an incomplete last one.
    journal.write_bytes(b"".join([*lines[:9], b"\x00\xff" * 9 + b"\n", *lines[10:], b'["caf\xc3']))
    record = runs(Plan())
    assert len(record.scores) == 2
    assert len(runs.asked()) == len(set(runs.asked())) == TOTAL - (len(lines) - 1)
    assert any("resuming the interrupted run" in line for line in record.log)
    log = (journal.parent.parent / "accuracy.log").read_text()
    assert "dropped 2 unreadable lines" in log
    faultless(record)


@pytest.mark.timeout(600)
def test_only_failed_items_are_asked_again_by_the_same_command(
    runs: Runs, faultless: Callable[[RunRecord], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    limited = runs(Plan(refuse=[5], nan=[14]), "accuracy.limit=12")
    scores = by_task(limited)
    assert {task: (score.status, score.metrics, score.items) for task, score in scores.items()} == {
        "mini-mmlu": ("failed", (), ()),
        "mini-ceval": ("failed", (), ()),
    }
    (refused,), (nan,) = scores["mini-mmlu"].reasons, scores["mini-ceval"].reasons
    assert "1 of 12 questions were not answered, the first: HTTP 500" in refused
    assert "11 answers are kept" in refused
    assert "a log-probability of nan: its logits are not finite numbers" in nan
    assert runs.asked().count(runs.asked()[4]) == 3, "tried three times"
    answered = sum(file.read_bytes().count(b"\n") for file in runs.journal())
    assert 11 <= answered < 23

    again = runs(Plan(), "accuracy.limit=12")
    assert len(runs.asked()) == len(set(runs.asked())) == 24 - answered
    faultless(again)
    first = set(runs.answered())

    full = runs(Plan())
    assert len(runs.asked()) == len(set(runs.asked())) == TOTAL - 24
    assert not first & set(runs.asked())
    assert {score.n_items for score in full.scores} == {64, 48}
    faultless(full)


@pytest.mark.timeout(600)
def test_for_the_noise_floor_bf16_is_scored_a_second_time_in_reverse_order(runs: Runs) -> None:
    overrides = [
        "accuracy.noise_floor=true",
        "accuracy.limit=9",
        "accuracy.tasks=[mini-mmlu]",
        "accuracy.concurrency=1",
    ]
    record = runs(Plan(), *overrides)
    assert [score.repeat for score in sorted(record.scores, key=lambda score: score.repeat)] == [0, 1]
    assert runs.asked()[9:] == runs.asked()[:9][::-1]
    assert len({score.key for score in record.scores}) == 2
    again = runs(Plan(), *overrides)
    assert runs.starts() == 0, "nothing is left to ask"
    assert sorted(again.scores, key=lambda score: score.repeat) == sorted(record.scores, key=lambda score: score.repeat)
    assert sum("reused from run" in line for line in again.log) == 2


def test_answers_are_separated_by_everything_that_they_depend_on_and_nothing_else(runs: Runs) -> None:
    def keys(*overrides: str) -> list[tuple[str, str]]:
        stages = plan(compose_job(runs.typed(*overrides), runs.configs)).tasks
        return [(stage.answers.digest, stage.key.digest) for stage in stages]

    usual = keys()
    for same in ("accuracy.limit=3", "accuracy.num_fewshot=1", "accuracy.max_gen_toks=9",
                 "accuracy.concurrency=9", "accuracy.max_share={empty: 1}"):  # fmt: skip
        repeated = keys(same)
        assert [answers for answers, _ in repeated] == [answers for answers, _ in usual], same
        assert not {key for _, key in repeated} & {key for _, key in usual}, same
    for change in ("quant=fp8", "engine.kernel=two", "model.context_length=4096"):
        assert not {answers for answers, _ in keys(change)} & {answers for answers, _ in usual}, change
    assert keys("engine.request_timeout_s=7") == keys("accuracy.at_least=9") == usual, "without a limit it says nothing"
    assert keys("accuracy.noise_floor=true")[:2] == usual
    assert len(keys("accuracy.noise_floor=true")) == 4
    assert len(keys("accuracy.noise_floor=true", "quant=fp8")) == 2
