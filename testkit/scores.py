"""Scores like those of real runs, with metrics computed from their items. The same arguments give the same score."""

import math
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from bench.records.record import PROBLEM_MEANING, ItemOutcome, Metric, Problem, Status, TaskScore, Variant, Work
from quantize.key import sha256_text

MODEL = "smollm2-135m"
TASKS = ("mini-mmlu", "mini-ceval", "mini-ifeval")
GENERATED = ("mini-ifeval", "ifeval")
"""Tasks with text answers; the others have choices."""
EMULATED_REASON = "transformers computes with the weights expanded to bfloat16"
SHARE_RIGHT = 0.47
SUBJECTS = {
    "mini-mmlu": ("mini_mmlu_history", "mini_mmlu_physics", "mini_mmlu_law"),
    "mini-ceval": ("mini_ceval_geography", "mini_ceval_literature"),
    "mini-ifeval": ("mini_ifeval",),
}
DAMAGE = {"bf16": 0.0, "gptq-int8": 0.05, "fp8": 0.15, "awq-int4": 0.5, "gptq-int4": 0.8}
"""Standard deviation of a variant's error in the log-probability of a choice, in nats."""
BY_CHANCE = 0.02
"""The same for a repeated evaluation, or one on a different engine."""
WORDS = ("apples", "bread", "carrots", "dates", "eggs", "figs", "garlic", "honey", "kale", "lemons", "mint", "nuts")


def _text(rng: random.Random, lines: int) -> str:
    return "Here is the list you asked for:\n\n" + "\n".join(
        f"{number + 1}. <b>{rng.choice(WORDS)}</b> & {rng.choice(WORDS)}" for number in range(lines)
    )


def _generated(item: str, changes: str, damage: float) -> tuple[str, str, float, Problem | None]:
    """Return target, answer, 1 if it is correct, and its problem."""
    rng, luck = random.Random(item), random.Random(changes)
    right = rng.random() < SHARE_RIGHT
    if luck.random() < 0.3 * damage:
        right, rng = not right, luck
    problem: Problem | None = "truncated" if rng.random() < 0.08 else None
    return "none", _text(rng, rng.randint(3, 9)), float(right), problem


def _chosen(item: str, changes: str, damage: float) -> tuple[str, str, float, tuple[float, ...]]:
    """Return target, answer, 1 if it is correct, and the choices' log-probabilities."""
    rng, luck = random.Random(item), random.Random(changes)
    baseline = [rng.gauss(0, 1.2) for _ in range(4)]
    pick = baseline.index(max(baseline))
    target = pick if rng.random() < SHARE_RIGHT else rng.choice([choice for choice in range(4) if choice != pick])
    logits = [value + luck.gauss(0, damage) for value in baseline]
    total = math.log(sum(map(math.exp, logits)))
    answer = logits.index(max(logits))
    return str(target), str(answer), float(answer == target), tuple(value - total for value in logits)


def _items(task: str, per_subject: int, damage: float, changes: str) -> tuple[ItemOutcome, ...]:
    """Return items of which a baseline answers its share correctly; a variant's answers differ with its damage."""
    items = []
    for subject in SUBJECTS.get(task, (task,)):
        for doc_id in range(per_subject):
            item = f"{subject} {doc_id}"
            logprobs: tuple[float, ...] = ()
            problem: Problem | None = None
            if task in GENERATED:
                target, answer, right, problem = _generated(item, f"{changes} {item}", damage)
                metrics = {"prompt_level_strict_acc": right, "inst_level_strict_acc": right}
            else:
                target, answer, right, logprobs = _chosen(item, f"{changes} {item}", damage)
                metrics = {"acc": right}
            items.append(
                ItemOutcome(
                    task=subject,
                    doc_id=doc_id,
                    doc_hash=sha256_text(item),
                    prompt_hash=sha256_text(f"{item} prompt"),
                    target=target,
                    answer=answer,
                    logprobs=logprobs,
                    metrics=metrics,
                    prompt_tokens=random.Random(f"{item} length").randint(180, 420),
                    problem=problem,
                )
            )
    return tuple(items)


def _metrics(items: Sequence[ItemOutcome]) -> tuple[Metric, ...]:
    metrics = []
    for name in items[0].metrics:
        mean = sum(item.metrics[name] for item in items) / len(items)
        stderr = None if name.startswith("inst") else (mean * (1 - mean) / len(items)) ** 0.5
        metrics.append(Metric(name=name, value=mean, stderr=stderr))
    return tuple(metrics)


def work(items: Sequence[ItemOutcome], **changes: Any) -> Work:
    """Return the work of evaluating these items on a small CPU server; ``changes`` replaces any fields."""
    tokens = sum(item.prompt_tokens or 0 for item in items)
    generated = bool(items) and not items[0].logprobs
    values: dict[str, Any] = {
        "requests": len(items),
        "prompt_tokens": tokens,
        "unique_tokens": tokens if generated else tokens // 4,
        "cached_tokens": 0 if generated else tokens * 7 // 10,
        "output_tokens": 60 * len(items) if generated else None,
        "duration_s": 31.4,
        "concurrency": 32,
        "resumed": 0,
        "retried": 0,
    }
    return Work.model_validate(values | changes)


def score(
    quant: str,
    task: str,
    *,
    model: str = MODEL,
    engine: str = "transformers",
    per_subject: int = 40,
    repeat: int = 0,
    status: Status | None = None,
    reasons: tuple[str, ...] | None = None,
    damage: float | None = None,
) -> TaskScore:
    """Return a score; ``damage`` overrides that of ``DAMAGE``."""
    status = status or ("ok" if quant == "bf16" else "emulated")
    # Two BF16 runs on the same engine in the same order are identical.
    by_chance = f"{engine} {repeat}" if repeat or engine != "transformers" else ""
    damage = damage if damage is not None else DAMAGE.get(quant, 0.3)
    measured = status in ("ok", "emulated")
    noise = BY_CHANCE if by_chance else 0
    items = _items(task, per_subject, damage + noise, f"{quant} {by_chance}") if measured else ()
    problems = Counter(item.problem for item in items)
    return TaskScore(
        variant=Variant(model=model, quant=quant),
        engine=engine,
        task=task,
        key=sha256_text(f"{model} {quant} {task} {engine} {repeat}"),
        status=status,
        reasons=reasons if reasons is not None else ((EMULATED_REASON,) if status == "emulated" else ()),
        metrics=_metrics(items) if items else (),
        n_items=len(items),
        num_fewshot=None if task in GENERATED else 5,
        limit=None,
        chat_template=task in GENERATED,
        thinking=False if task in GENERATED else None,
        repeat=repeat,
        task_versions={task: "1"},
        counts={problem: problems[problem] for problem in PROBLEM_MEANING} if items else {},
        work=work(items) if items else None,
        duration_s=38.2,
        items=items,
    )
