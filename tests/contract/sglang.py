"""``python -m tests.contract.sglang``: tests quantbench and the reference server against the real SGLang on a CPU.

Builds the toolchain ``sglang-cpu`` if it is missing, runs a sweep and a scoring on the real server, compares its
answers with the recorded ones, and writes docs/contract-sglang.md. ``--record`` records its answers again first. The
exit code is 1 if a check failed.
"""

import argparse
import asyncio
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.config.compose import compose_job, with_plus
from bench.paths import cache_dir
from bench.pipeline.checkpoints import find
from bench.plan.stages import plan
from bench.records.record import RunRecord
from bench.servers.lifecycle import RunningEngine, serve
from bench.toolchains.build import build
from bench.toolchains.toolchain import read, read_built, toolchain_interpreter
from bench.toolchains.toolchain import state as toolchain_state
from tests.contract import answers, flags, hold, known, page, questions, replay, scores
from tests.contract.answers import Answer, Form
from tests.contract.asked import GREEDY, INCREMENTAL, Asked, requests

TOOLCHAIN = "sglang-cpu"
MODEL = ["model=smollm2-135m", "quant=bf16"]
REAL = ["engine=sglang", f"engine.toolchain={TOOLCHAIN}", "engine.device=cpu"]
REFERENCE = ["engine=transformers", "engine.device=cpu"]
SPEED = [
    "workload=demo", "workload.input_lens=[1,64,300]", "workload.output_len=8", "workload.concurrency=[1,4]",
    "workload.trials=2",
]  # fmt: skip
SCORING = ["accuracy=demo", "accuracy.limit=16", "accuracy.max_gen_toks=24"]
STRETCHED = ["context=131k", "workload=none", "accuracy=demo", "accuracy.tasks=[mini-mmlu]", "accuracy.limit=16"]
"""Sixteen times the model's own context: answers to short prompts change too."""
APART = 4
"""The log-probabilities without YaRN must be off by at least this many times the difference of the two servers."""
N_CELLS, TASKS = 6, ("mini-mmlu", "mini-ceval", "mini-ifeval")
CONTEXT = 1024
"""Context of the servers whose answers are recorded, tokens: small, so that exceeding it is fast on a CPU."""
PROMPT = list(range(1000, 1040))
CHOICES = [330, 389, 340, 422]
END_S = 60.0
"""How long the real server may take to end after an unknown token, s."""


class Contract:
    """The results of the checks so far."""

    def __init__(self) -> None:
        self.results: list[page.Result] = []

    def check(self, name: str, run: Callable[[], tuple[Sequence[str], str]]) -> None:
        """Run one check, which returns (what is wrong, details); an error fails this check and not the next."""
        say(f"{name} …")
        try:
            wrong, details = run()
        except Exception as error:  # noqa: BLE001 - the checks that follow say more about what is broken
            traceback.print_exc()
            wrong, details = [f"{type(error).__name__}: {error}"], ""
        self.results.append(page.Result(name, tuple(wrong), details))
        say(f"{name}: {'; '.join(wrong) if wrong else 'passed'}")


def say(text: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()


def run_quantbench(work: Path, overrides: Sequence[str]) -> RunRecord:
    """Run quantbench from its command line and return the record.

    Raises:
        RuntimeError: there is no record.
    """
    results = work / "results"
    command = [sys.executable, "-m", "bench.run", *MODEL, *overrides]
    places = [f"results_dir={results}", f"reports_dir={work}"]
    subprocess.run([*command, *places], check=False, cwd=work)
    records = sorted(results.glob("runs/*/record.json"), key=lambda file: file.stat().st_mtime)
    if not records:
        raise RuntimeError(f"{' '.join(command)} left no record in {results}")
    return RunRecord.model_validate_json(records[-1].read_bytes())


@contextmanager
def running(work: Path, name: str, *overrides: str) -> Iterator[RunningEngine]:
    """Serve the BF16 checkpoint with quantbench's own engine."""
    exactly = f"engine.context_length={CONTEXT}"
    spec = compose_job(with_plus([*MODEL, *REAL, exactly, *overrides, "session=contract"]))
    stage = plan(spec).quantize
    assert stage is not None
    checkpoint, why = find(stage)
    assert checkpoint is not None, why
    with serve(
        spec.engine,
        checkpoint,
        context_length=CONTEXT,
        what=f"SGLang, {name}",
        log_file=work / f"{name}.log",
        on_wait=lambda: None,
    ) as engine:
        yield engine


def check_run(record: RunRecord) -> tuple[list[str], str]:
    """Check that every cell and task of a run is ``ok``, and that no key was kept."""
    wrong = [f"{failure.stage}: {failure.message}" for failure in record.failures]
    wrong += [
        f"{cell.input_len} in, {cell.concurrency} at once: {cell.status}: {'; '.join(cell.reasons)}"
        for cell in record.cells
        if cell.status != "ok"
    ]
    wrong += [
        f"{score.task}: {score.status}: {'; '.join(score.reasons)}" for score in record.scores if score.status != "ok"
    ]
    if len(record.cells) != N_CELLS or {score.task for score in record.scores} != set(TASKS):
        wrong.append(f"{len(record.cells)} cells and {len(record.scores)} tasks, asked for {N_CELLS} and {len(TASKS)}")
    if "api_key" in record.engine_info.reported():
        wrong.append("the record holds the API key")
    trials = sum(len(cell.trials) for cell in record.cells)
    return wrong, f"{len(record.cells)} cells of {trials} trials, {len(record.scores)} tasks, all ok"


def check_scores(real: RunRecord, reference: RunRecord) -> tuple[list[str], str]:
    """Compare the scores of the two servers item by item."""
    others = {score.task: score for score in reference.scores}
    tasks = [scores.likeness(score, others[score.task]) for score in real.scores]
    details = [
        f"{task.task}: {task.n_items} items, {task.n_other_picks} other picks, log-probabilities off by "
        f"{task.mean_nats:.3f} nats on average and {task.most_nats:.3f} at most"
        if task.n_choices
        else f"{task.task}: {task.n_same_texts} of {task.n_items} generated answers the same"
        for task in tasks
    ]
    return [text for task in tasks for text in task.wrong()], "; ".join(details)


def check_stretched(real: RunRecord, reference: RunRecord, plain: RunRecord) -> tuple[list[str], str]:
    """Check that both servers stretch positions alike, with an effect: ``plain`` is the reference without YaRN."""
    (score,), (expected,) = real.scores, reference.scores
    alike = scores.likeness(score, expected)
    apart = scores.likeness(expected, next(other for other in plain.scores if other.task == expected.task))
    wrong = [f"{alike.n_unexplained} picks differ by more than rounding"] if alike.n_unexplained else []
    if score.yarn is None or score.yarn != expected.yarn:
        wrong.append(f"YaRN is {score.yarn} in SGLang and {expected.yarn} in the reference server")
    # YaRN sharpens attention, and so the rounding errors of BF16: only their ratio to YaRN's effect can be bounded.
    if APART * alike.mean_nats > apart.mean_nats:
        wrong.append(f"{alike.mean_nats:.3f} nats off on average, and without YaRN only {apart.mean_nats:.3f}")
    return wrong, (
        f"{alike.n_items} items, log-probabilities off by {alike.mean_nats:.3f} nats on average and "
        f"{alike.most_nats:.3f} at most; without YaRN by {apart.mean_nats:.3f} on average"
    )


def check_facts(engine: RunningEngine) -> tuple[list[str], str]:
    """Check that the engine reports its server's facts, and that the longest request is answered completely."""
    facts = engine.facts
    required = ("version", "kv_capacity_tokens", "max_context_tokens", "max_running")
    missing = [name for name in required if getattr(facts, name) is None]
    if missing:
        return [f"{name} is not reported" for name in missing], ""
    n = 8
    prompt = PROMPT[:1] * (int(facts.max_context_tokens or 0) - n)
    trace = asyncio.run(replay.read(engine.base_url, prompt, n, engine.api_key))
    wrong = [f"{len(prompt)} + {n} tokens: {text}" for text in replay.wrong(trace, len(prompt), n)]
    return (
        wrong,
        f"{facts.max_context_tokens} tokens of {CONTEXT} usable, {facts.max_running} requests together at most",
    )


def check_questions(engine: RunningEngine) -> tuple[list[str], str]:
    """Check that the answers to accuracy questions of every kind agree with each other and with generated tokens."""
    send = answers.sender(engine.base_url, engine.api_key)
    body = {"input_ids": PROMPT, "sampling_params": {"max_new_tokens": 3, **GREEDY}}
    output_ids = send(Asked("/generate", body)).values()[0]["output_ids"]
    ask = questions.asker(engine.engine.protocol, send)
    wrong = questions.disagreements(ask, PROMPT, output_ids, scores.MOST_NATS)
    return wrong, "choices, continuations, texts and a stop"


def gather(engine: RunningEngine, asked: dict[str, Asked], suffix: str = "") -> dict[str, tuple[Asked, Answer]]:
    """Send every request and return it with its answer."""
    send = answers.sender(engine.base_url, engine.api_key)
    return {f"{name}{suffix}": (request, send(request)) for name, request in asked.items()}


def check_answers(got: dict[str, tuple[Asked, Answer]], recorded: dict[str, Form]) -> tuple[list[str], str]:
    """Check the real server's answers against the recorded ones."""
    wrong = [f"{name} was never recorded" for name in got.keys() - recorded.keys()]
    for name in got.keys() & recorded.keys():
        wrong += hold.differences(name, *got[name], recorded[name])
    return wrong, f"{len(got)} answers, {sum(len(recorded[name]['fields']) for name in got if name in recorded)} fields"


def keep(got: dict[str, tuple[Asked, Answer]], secrets: Sequence[str]) -> None:
    """Write the answers as fixtures, and their schema."""
    for old in answers.FOLDER.glob("*.json"):
        old.unlink()
    for name, (asked, answer) in got.items():
        answers.write_json(answers.FOLDER / f"{name}.json", answers.to_fixture(asked, answer, secrets))
    schema = {name: answers.form(answers.trimmed(asked, answer)) for name, (asked, answer) in got.items()}
    answers.write_json(answers.FOLDER / answers.SCHEMA, dict(sorted(schema.items())))


def check_client(engine: RunningEngine) -> tuple[list[str], str]:
    """Check that quantbench's client reads the real server's streams correctly."""
    wrong = []
    for n_prompt, n in ((1, 1), (1, 6), (40, 1), (40, 12)):
        trace = asyncio.run(replay.read(engine.base_url, PROMPT[:n_prompt], n, engine.api_key))
        wrong += [f"{n_prompt} in, {n} out: {text}" for text in replay.wrong(trace, n_prompt, n)]
    return wrong, "4 streams: counts, finish reason and cached tokens"


def check_known(engine: RunningEngine) -> tuple[list[str], str]:
    """Check that the known differences are still those on the page."""
    send = answers.sender(engine.base_url, engine.api_key)
    listed = known.differences(PROMPT, CONTEXT)
    outcomes = [(difference, known.outcome(send(difference.asked))) for difference in listed]
    wrong = [
        f"{difference.what}: {outcome}, known is {difference.real}"
        for difference, outcome in outcomes
        if outcome != difference.real
    ]
    return wrong, f"{len(listed)} requests"


def check_unknown_token(engine: RunningEngine, vocab_size: int) -> tuple[list[str], str]:
    """Check that a token outside the vocabulary ends the real server, which is why quantbench never sends one."""
    try:
        answer = answers.sender(engine.base_url, engine.api_key)(known.unknown_token(vocab_size))
        return [f"{known.UNKNOWN_TOKEN} was answered with {answer.status}: {answer.text[:100]}"], ""
    except OSError:  # the connection breaks when the server ends
        deadline = time.monotonic() + END_S
        while not engine.ended and time.monotonic() < deadline:
            time.sleep(0.5)
    return ([] if engine.ended else ["the server hangs"]), "the server ended, and nothing else did"


def checks(contract: Contract, work: Path, *, record: bool) -> None:
    """Run everything that needs the real server."""
    runs: dict[str, RunRecord] = {}

    def run(name: str, overrides: Sequence[str]) -> RunRecord:
        (work / name).mkdir(exist_ok=True)
        runs[name] = run_quantbench(work / name, overrides)
        return runs[name]

    contract.check("a sweep and three tasks", lambda: check_run(run("real", [*REAL, *SPEED, *SCORING])))
    contract.check(
        "scores like the reference server's",
        lambda: (
            check_scores(runs["real"], run("reference", [*REFERENCE, "workload=none", *SCORING]))
            if "real" in runs
            else (["the sweep left no record to compare with"], "")
        ),
    )
    contract.check(
        "positions stretched by YaRN",
        lambda: check_stretched(
            run("real-yarn", [*REAL, *STRETCHED]), run("reference-yarn", [*REFERENCE, *STRETCHED]), runs["reference"]
        ),
    )
    got: dict[str, tuple[Asked, Answer]] = {}
    asked = requests(PROMPT, choices=CHOICES, context_length=CONTEXT)
    secrets: list[str] = []
    with running(work, "plain", "engine.incremental_streaming=false") as engine:
        got |= gather(engine, asked)
        secrets.append(engine.api_key or "")
        contract.check("the longest request that it says it takes", lambda: check_facts(engine))
        contract.check("its streams, each event the whole answer", lambda: check_client(engine))
        contract.check("accuracy questions of every kind", lambda: check_questions(engine))
        contract.check("known differences", lambda: check_known(engine))
    with running(work, "incremental", "engine.incremental_streaming=true") as engine:
        got |= gather(engine, {name: asked[name] for name in INCREMENTAL}, "_incremental")
        secrets.append(engine.api_key or "")
        contract.check("its streams, each event its own tokens", lambda: check_client(engine))
        vocab_size = compose_job(with_plus([*MODEL, "session=contract"])).model.architecture.vocab_size
        contract.check("an unknown token ends it", lambda: check_unknown_token(engine, vocab_size))
    if record:
        keep(got, secrets)
    contract.check("its answers, as recorded", lambda: check_answers(got, answers.read_schema()))


def main() -> int:
    """Run the contract and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.contract.sglang", description=__doc__)
    parser.add_argument("--record", action="store_true", help="record the real server's answers again")
    arguments = parser.parse_args()
    chain = read(TOOLCHAIN)
    if toolchain_state(chain).python is None:
        build(TOOLCHAIN)
    interpreter = toolchain_interpreter(TOOLCHAIN, "the contract")
    built = read_built(Path(interpreter).parent.parent)
    assert built is not None
    work = cache_dir() / "contract" / TOOLCHAIN
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    contract = Contract()
    plain: dict[str, Any] = compose_job(with_plus([*MODEL, *REAL, "session=contract"])).engine.config.model_dump()

    def check_flags() -> tuple[list[str], str]:
        wrong, n = flags.rejected(TOOLCHAIN, interpreter, plain)
        return wrong, f"{n} flags, each known to SGLang's parser by its full name"

    contract.check("the flags that the engine can emit", check_flags)
    try:
        checks(contract, work, record=arguments.record)
    except Exception as error:  # noqa: BLE001 - the page is written in any case, and reports the error
        traceback.print_exc()
        contract.results.append(page.Result("the servers", (f"{type(error).__name__}: {error}",), ""))
    versions = {name: built.versions[name] for name in ("sglang", "torch", "transformers")}
    page.write(contract.results, versions, known.differences(PROMPT, CONTEXT), built.disk_bytes)
    failed = [result.check for result in contract.results if result.wrong]
    say(f"failed: {', '.join(failed)} (logs: {work})" if failed else f"all {len(contract.results)} checks passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
