"""Our served model against lm-eval's own backend for transformers: the same tokens, log-probabilities and texts."""

# ruff: noqa: F401, F811 — fixtures are imported by name

import json
import os
import string
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.records.record import RunRecord
from tests.support.accuracy_jobs import requests, served, write_tokenizer
from tests.support.program import Cli
from tests.support.runs import checkpoint_of, records
from tests.support.serving import Server, checkpoint, running, server

pytest.importorskip("lm_eval")
pytestmark = pytest.mark.filterwarnings("ignore")  # warnings of lm-eval and datasets, not of quantbench

LIMIT, TOKENS = 2, 16
PEER = """
import json, sys
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from bench.accuracy.tasks import MINI_DIR
model, out, limit, tokens = sys.argv[1:]
lm = HFLM(pretrained=model, dtype="float32", device="cpu", batch_size=1)
# Our servers stop at every end token that a checkpoint names, generate() only at those of generation_config.json.
lm.model.generation_config.eos_token_id = [lm.model.config.eos_token_id, lm.tokenizer.eos_token_id]
rows = {}
for tasks, more in (
    (["mini-mmlu", "mini-ceval"], {}),
    (["mini-ifeval"], {"apply_chat_template": True, "gen_kwargs": {"max_gen_toks": int(tokens)}}),
):
    found = simple_evaluate(
        model=lm, tasks=tasks, task_manager=TaskManager(include_path=str(MINI_DIR), include_defaults=False),
        limit=int(limit), bootstrap_iters=0, random_seed=0, numpy_random_seed=0, torch_random_seed=0,
        fewshot_random_seed=0, **more,
    )
    for task, samples in found["samples"].items():
        for sample in samples:
            said = sample["filtered_resps"]
            rows[f"{task}/{sample['doc_id']}"] = said[0] if more else [response[0] for response in said]
open(out, "w").write(json.dumps(rows))
"""


@pytest.mark.long
@pytest.mark.timeout(600)
def test_same_picks_log_probabilities_and_texts_as_lm_evals_own_backend(cli: Cli, cache: Path, tmp_path: Path) -> None:
    done = cli(
        "+model=smollm2-135m", "workload=none", f"accuracy.limit={LIMIT}", f"accuracy.max_gen_toks={TOKENS}",
        "accuracy.concurrency=16", "engine.dtype=float32", timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (file,) = cli.folder.glob("results/runs/*/record.json")
    record = RunRecord.model_validate_json(file.read_bytes())
    model = checkpoint_of(cache, record)
    out = tmp_path / "peer.json"
    env = {**cli.env, "HF_HUB_OFFLINE": "1", **nltk_data()}
    peer = subprocess.run(
        [sys.executable, "-c", PEER, str(model), str(out), str(LIMIT), str(TOKENS)], env=env, capture_output=True,
        text=True,
    )  # fmt: skip
    assert peer.returncode == 0, peer.stderr
    expected = json.loads(out.read_text())
    items = {f"{item.task}/{item.doc_id}": item for score in record.scores for item in score.items}
    assert items.keys() == expected.keys()
    assert len(items) == 3 * LIMIT
    for name, item in items.items():
        if item.logprobs:
            assert item.logprobs == pytest.approx(expected[name], abs=1e-3), name
            assert item.answer == str(max(range(4), key=expected[name].__getitem__)), name
        else:
            assert item.answer == expected[name], name


def nltk_data() -> dict[str, str]:
    from bench.accuracy import tasks

    return {name: value for name, value in tasks.environment(None, None).items() if name == "NLTK_DATA"}


def test_the_real_tasks_run_from_a_local_mirror(cli: Cli) -> None:
    mirror = os.environ.get("QUANTBENCH_HUB")
    if not mirror:
        pytest.skip(
            "no local hub mirror: set QUANTBENCH_HUB to a folder with cais/mmlu, ceval/ceval-exam, google/IFEval"
        )
    done = cli(
        "+model=tiny-qwen3", "workload=none", "accuracy=full", "accuracy.limit=1", "accuracy.at_least=3",
        "accuracy.max_gen_toks=8", f"accuracy.hub_dir={mirror}",
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr  # random weights may generate empty answers
    (file,) = cli.folder.glob("results/runs/*/record.json")
    scores = {score.task: score for score in RunRecord.model_validate_json(file.read_bytes()).scores}
    assert {task: score.n_items for task, score in scores.items()} == {"mmlu": 57, "ceval-valid": 52, "ifeval": 3}
    assert {score.status for score in scores.values()} <= {"ok", "invalid"}
    assert scores["mmlu"].num_fewshot == 5
    assert {metric.name for metric in scores["ifeval"].metrics} >= {"prompt_level_strict_acc", "inst_level_loose_acc"}


# --- on a tiny model with random weights


@pytest.fixture(scope="module")
def peer(checkpoint: Path) -> Any:
    """Return lm-eval's own backend over the checkpoint that the server serves, in float32."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(checkpoint), dtype="float32", device="cpu", batch_size=1)


@pytest.fixture
def ours(checkpoint: Path, server: Server, tmp_path: Path) -> Iterator[Any]:
    url = f"http://127.0.0.1:{server.port}"
    with served(url, checkpoint, tmp_path / "journal", concurrency=16, max_length=32768) as lm:
        yield lm


PAIRS = [
    ("Two and two is", " four"),
    ("Two and two is", " four"),
    ("Two and two is", " f"),
    ("Two and two is", "\n"),
    ("A trailing space ", "moves"),
    ("Trailing spaces and a newline \n ", "move"),
    ("Straße, 東京 🙂", " ja, 大阪"),
    ("", "no context"),
    ("", "n"),
    ("x", "y"),
    ("x" * 300, "y" * 90),
]


def test_continuations_of_any_length_score_as_with_lm_evals_own_backend(peer: Any, ours: Any) -> None:
    scores = ours.loglikelihood(requests(*PAIRS))
    expected = peer.loglikelihood(requests(*PAIRS), disable_tqdm=True)
    assert [logprob for logprob, _ in scores] == pytest.approx([logprob for logprob, _ in expected], abs=1e-3)
    assert [greedy for _, greedy in scores] == [greedy for _, greedy in expected]


def test_greedy_continuations_are_marked_greedy(peer: Any, ours: Any) -> None:
    def greedy(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
        marks = [greedy for _, greedy in ours.loglikelihood(requests(*pairs))]
        assert marks == [greedy for _, greedy in peer.loglikelihood(requests(*pairs), disable_tqdm=True)]
        return [pair for pair, is_greedy in zip(pairs, marks, strict=True) if is_greedy]

    once = greedy([(context, letter) for context in string.ascii_lowercase for letter in string.printable])
    assert 1 < len(once) <= 26
    twice = greedy([(context, text + letter) for context, text in once for letter in string.printable])
    assert 0 < len(twice) <= len(once)


@pytest.mark.parametrize("max_length", [32767, 41])
def test_whole_texts_score_as_with_lm_evals_own_backend(
    checkpoint: Path, server: Server, tmp_path: Path, max_length: int
) -> None:
    from lm_eval.models.huggingface import HFLM

    texts = [("short",), ("Straße 東京 " * 12,), ("short",), ("x" * 40,), ("x" * 41,)]
    peer = HFLM(pretrained=str(checkpoint), dtype="float32", device="cpu", batch_size=1, max_length=max_length)
    url = f"http://127.0.0.1:{server.port}"
    # A window of quantbench has one token less, so that the last one is scored as a part of the prompt.
    with served(url, checkpoint, tmp_path / "journal", max_length=max_length + 1) as lm:
        scores = lm.loglikelihood_rolling(requests(*texts))
    assert scores == pytest.approx(peer.loglikelihood_rolling(requests(*texts), disable_tqdm=True), abs=1e-3)


def test_greedy_texts_are_those_of_lm_evals_own_backend(peer: Any, ours: Any) -> None:
    def asked(*contexts: str, **settings: Any) -> list[tuple[str, dict[str, Any]]]:
        return [(context, {"max_gen_toks": 24, **settings}) for context in contexts]

    (free,) = peer.generate_until(requests(*asked("Hello", until=[])), disable_tqdm=True)
    prompts = [
        *asked("Hello", "Hello", "Straße 東京", "x" * 200, until=[]),
        *asked("Hello", until=free[5]),
        *asked("Hello", until=[free[7:9], free[3]], do_sample=False, temperature=0.7),
        *asked("Hello", until=["never said"], temperature=0.0),
    ]
    answers = ours.generate_until(requests(*prompts))
    assert answers == peer.generate_until(requests(*prompts), disable_tqdm=True)
    assert answers[0] == free
    assert len({len(text) for text in answers}) > 1, "a stop text must have stopped something"


# --- the same tokens


TEXTS = [*PAIRS, ("<s>begun", " x"), ("A\n\nAnswer:", " A"), ("end\n", "\nstart"), ("tab\t", " x"), ("é", "́")]


def tokens(lm: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the token ids of an lm-eval model for contexts and continuations."""
    monkeypatch.setattr(lm, "_loglikelihood_tokens", lambda pairs, **options: pairs)
    return lm.loglikelihood(requests(*TEXTS), disable_tqdm=True)


def same_tokens(peer: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with served("http://127.0.0.1:9", folder, tmp_path / "journal") as lm:
        assert tokens(lm, monkeypatch) == tokens(peer, monkeypatch)
        for context, continuation in TEXTS:
            text = context + continuation
            assert lm.tok_encode(text) == peer.tok_encode(text)
        assert lm.prefix_token_id == peer.prefix_token_id
        assert lm.eot_token_id == peer.eot_token_id


@pytest.mark.parametrize("bos", [False, True])
def test_texts_become_the_tokens_that_lm_evals_own_backend_makes(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bos: bool
) -> None:
    from lm_eval.models.huggingface import HFLM

    folder = write_tokenizer(tmp_path / "tokenizer", bos=bos)
    peer = HFLM(pretrained=str(checkpoint), tokenizer=str(folder), dtype="float32", device="cpu")
    assert (len(peer.tok_encode("A")) == 2) == bos
    same_tokens(peer, folder, tmp_path, monkeypatch)


@pytest.mark.long
def test_smollm2s_tokens_are_those_of_lm_evals_own_backend(
    cli: Cli, cache: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval.models.huggingface import HFLM

    assert cli("+model=smollm2-135m", "workload=none", "accuracy=none").returncode == 0
    (record,) = records(cli.folder)
    folder = checkpoint_of(cache, record)
    peer = HFLM(pretrained=str(checkpoint), tokenizer=str(folder), dtype="float32", device="cpu")
    same_tokens(peer, folder, tmp_path, monkeypatch)
