"""Our served model against lm-eval's own backend, and against answers that must not be scored."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.record import RunRecord
from tests.conftest import ROOT, Cli

pytest.importorskip("lm_eval")

PEER = """
import json, sys
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
from bench.accuracy.tasks import MINI_DIR
model, out, limit = sys.argv[1:]
found = simple_evaluate(
    model="hf", model_args={"pretrained": model, "dtype": "float32"}, device="cpu", tasks=["mini-mmlu", "mini-ceval"],
    task_manager=TaskManager(include_path=str(MINI_DIR)), limit=int(limit), batch_size=1, bootstrap_iters=0,
    random_seed=0, numpy_random_seed=0, torch_random_seed=0, fewshot_random_seed=0,
)
rows = {
    f"{task}/{sample['doc_id']}": [response[0] for response in sample["filtered_resps"]]
    for task, samples in found["samples"].items() for sample in samples
}
open(out, "w").write(json.dumps(rows))
"""


@pytest.mark.model
@pytest.mark.timeout(600)
def test_same_picks_and_log_probabilities_as_lm_evals_own_backend(cli: Cli, cache: Path, tmp_path: Path) -> None:
    limit = 12
    done = cli(
        "+model=smollm2-135m", "workload=none", "accuracy.tasks=[mini-mmlu,mini-ceval]", f"accuracy.limit={limit}",
        "engine.dtype=float32",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (file,) = cli.folder.glob("results/runs/*/record.json")
    record = RunRecord.model_validate_json(file.read_bytes())
    (model,) = (cache / "checkpoints").glob("smollm2-135m-bf16-*[0-9a-f]/")
    out = tmp_path / "peer.json"
    env = {**cli.env, "HF_HUB_OFFLINE": "1"}
    peer = subprocess.run(
        [sys.executable, "-c", PEER, str(model), str(out), str(limit)], env=env, capture_output=True, text=True
    )
    assert peer.returncode == 0, peer.stderr
    expected = json.loads(out.read_text())
    ours = {f"{item.task}/{item.doc_id}": item.logprobs for score in record.scores for item in score.items}
    assert ours.keys() == expected.keys()
    assert len(ours) == 2 * limit
    for name, logprobs in ours.items():
        assert list(logprobs) == pytest.approx(expected[name], abs=1e-3), name
        assert max(range(4), key=logprobs.__getitem__) == max(range(4), key=expected[name].__getitem__), name


def test_the_real_tasks_run_from_a_local_mirror(cli: Cli) -> None:
    import os

    mirror = os.environ.get("QUANTBENCH_HUB")
    if not mirror:
        pytest.skip(
            "no local hub mirror: set QUANTBENCH_HUB to a folder with cais/mmlu, ceval/ceval-exam, google/IFEval"
        )
    done = cli(
        "+model=tiny-qwen3", "workload=none", "accuracy=full", "accuracy.limit=1", "accuracy.max_gen_toks=8",
        f"accuracy.hub_dir={mirror}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (file,) = cli.folder.glob("results/runs/*/record.json")
    scores = {score.task: score for score in RunRecord.model_validate_json(file.read_bytes()).scores}
    assert {task: score.n_items for task, score in scores.items()} == {"mmlu": 57, "ceval-valid": 52, "ifeval": 1}
    assert scores["mmlu"].num_fewshot == 5
    assert {metric.name for metric in scores["ifeval"].metrics} >= {"prompt_level_strict_acc", "inst_level_loose_acc"}


SERVED = """
import asyncio, json, sys, threading
from pathlib import Path
from aiohttp import web
from bench.accuracy.served_lm import ServedLM
from bench.errors import AccuracyError

calls = []
def answer(body):
    calls.append(body)
    ids = body.get("token_ids_logprob")
    fault = sys.argv[2]
    if fault == "error" or (fault == "flaky" and len(calls) == 1):
        return web.json_response({"error": {"message": "no memory"}}, status=500)
    if ids:
        bad = {"nan": float("nan"), "inf": float("-inf")}.get(fault, -1.0)
        row = [[bad if token == ids[0] else -2.0, token, None] for token in ids]
        found = {"output_ids": [ids[0]], "meta_info": {"output_token_ids_logprobs": [row]}}
        return web.Response(text=json.dumps(found), content_type="application/json")
    reason = {"type": "length", "length": 3} if len(body["input_ids"]) % 2 else {"type": "stop", "matched": 2}
    text = "" if reason["type"] == "length" else "hello"
    return web.json_response({"text": text, "meta_info": {"finish_reason": reason}})

async def handle(request):
    return answer(await request.json())

ready = threading.Event()
def serve():
    async def main():
        app = web.Application(); app.router.add_post("/generate", handle)
        runner = web.AppRunner(app); await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0); await site.start()
        global port; port = site._server.sockets[0].getsockname()[1]
        ready.set(); await asyncio.Event().wait()
    asyncio.run(main())
threading.Thread(target=serve, daemon=True).start()
ready.wait()

class Request:
    def __init__(self, *args): self.args = args

model = ServedLM(
    f"http://127.0.0.1:{port}", Path(sys.argv[1]), max_length=40, max_gen_toks=None, concurrency=4,
    on_progress=lambda done, total: None,
)
try:
    if sys.argv[3] == "choices":
        found = model.loglikelihood([Request("Two and two is", c) for c in (" A", " B", " C", " D")], disable_tqdm=True)
    else:
        found = model.generate_until([Request("x" * n, {"until": ["stop"], "max_gen_toks": 9}) for n in (2, 3, 200)])
    print(json.dumps([found, dict(model.counts), len(calls), calls[-1]]))
except AccuracyError as error:
    print(json.dumps(["refused", str(error)]))
"""


@pytest.fixture(scope="module")
def tiny(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    cli = Cli(cache, tmp_path_factory.mktemp("tiny"))
    assert cli("+model=tiny-qwen3", "workload=none", "accuracy=none").returncode == 0
    (folder,) = (cache / "checkpoints").glob("tiny-qwen3-bf16-*[0-9a-f]/")
    return folder


def ask(tiny: Path, fault: str, kind: str) -> list[object]:
    argv = [sys.executable, "-c", SERVED, str(tiny), fault, kind]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: list[object] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_four_choices_are_one_request(tiny: Path) -> None:
    found, _, calls, _ = ask(tiny, "none", "choices")
    assert calls == 1
    assert found == [[-1.0, True], [-2.0, False], [-2.0, False], [-2.0, False]]


@pytest.mark.parametrize("fault", ["nan", "inf"])
def test_what_is_not_a_number_is_never_scored(tiny: Path, fault: str) -> None:
    kind, message = ask(tiny, fault, "choices")
    assert kind == "refused"
    assert "not finite" in message


def test_a_request_is_tried_twice_and_then_fails_the_task(tiny: Path) -> None:
    assert ask(tiny, "flaky", "choices")[2] == 2
    kind, message = ask(tiny, "error", "choices")
    assert kind == "refused"
    assert "HTTP 500" in message
    assert "no memory" in message


def test_truncated_empty_and_over_long_answers_are_counted(tiny: Path) -> None:
    found, counts, calls, body = ask(tiny, "none", "generate")
    assert len(found) == 3
    assert counts["over_long"] == 1
    assert counts["truncated"] == counts["empty"]
    assert calls == 2
    assert body["sampling_params"]["stop"] == ["stop"]
    assert body["sampling_params"]["temperature"] == 0.0
