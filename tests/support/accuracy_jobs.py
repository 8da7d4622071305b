"""Helpers of the accuracy tests: tiny tokenizers, jobs for the examinee, and lm-eval's requests."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bench.accuracy.asking import Asker, Endpoint
from bench.accuracy.journal import Journal
from bench.accuracy.questions import Answer
from bench.accuracy.tasks import MINI_DIR, TaskJob
from bench.records.record import TaskScore, Variant

TASKS_DIR = Path(__file__).resolve().parent / "tasks"
"""The tests' own tasks, of kinds that the mini sets do not include."""
LETTERS = ("A", "B", "C", "D")
QWEN3 = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
    "{%- endif %}"
)
"""The part of Qwen3's chat template that switches reasoning on and off."""
PLAIN = "{%- for message in messages %}{{- message.role + ': ' + message.content + '\\n' }}{%- endfor %}assistant:"
"""A chat template of a model that does not reason."""


def write_tokenizer(folder: Path, *, bos: bool = False, template: str | None = None) -> Path:
    """Write a byte-level tokenizer with a token for each letter that is a choice; with ``bos`` it begins every text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = [*letters, *(f"Ġ{letter}" for letter in LETTERS), "<s>", "</s>"]
    bpe = Tokenizer(models.BPE({text: n for n, text in enumerate(vocabulary)}, [("Ġ", letter) for letter in LETTERS]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    if bos:
        bpe.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", vocabulary.index("<s>"))])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="</s>", **({"bos_token": "<s>"} if bos else {}))
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


@dataclass
class Request:
    """A request of lm-eval."""

    args: tuple[Any, ...]


def requests(*args: tuple[Any, ...]) -> list[Request]:
    return [Request(arguments) for arguments in args]


@contextmanager
def asking(url: str, journal: Path, concurrency: int = 4, **options: Any) -> Iterator[Asker]:
    """Yield an asker of a server; ``options`` are those of `Asker`."""
    with Journal(journal) as answers:
        yield Asker(Endpoint(url, "sglang", "", concurrency, timeout_s=20.0), answers, **options)


@contextmanager
def served(url: str, tokenizer: Path, journal: Path, *, concurrency: int = 4, **options: Any) -> Iterator[Any]:
    """Yield an lm-eval model over a server; ``options`` are those of `ServedLM`."""
    from bench.accuracy.served_lm import ServedLM

    with asking(url, journal, concurrency) as asker:
        yield ServedLM(asker, tokenizer, **{"max_length": 4096, "thinking": False, "max_gen_toks": None, **options})


def kept(file: Path) -> tuple[dict[str, Answer], int]:
    """Return the answers in a journal, and the number of unreadable lines."""
    with Journal(file) as journal:
        return dict(journal.answers), journal.dropped


def job(url: str, tokenizer: Path, folder: Path, task: str = "mini-mmlu", **changes: Any) -> TaskJob:
    """Return a job for ``evaluate.run``."""
    fields: dict[str, Any] = {
        "variant": Variant(model="m", quant="bf16"),
        "engine": "scripted",
        "emulates": False,
        "task": task,
        "key": "k",
        "base_url": url,
        "protocol": "sglang",
        "served_model": "",
        "checkpoint": tokenizer,
        "max_length": 8192,
        "num_fewshot": None,
        "limit": None,
        "at_least": 1,
        "chat_template": False,
        "thinking": False,
        "sampling": None,
        "yarn": None,
        "max_gen_toks": None,
        "max_share": {},
        "verify_data": True,
        "concurrency": 4,
        "timeout_s": 20.0,
        "repeat": 0,
        "seed": 0,
        "journal": folder / f"{task}.jsonl",
        "result": folder / "result.json",
        "progress": folder / "progress",
    }
    return TaskJob(**{**fields, **changes})


@cache
def manager(*folders: Path) -> Any:
    """Return a task manager for the mini sets and for the tasks in other folders."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_defaults=False, include_path=[str(MINI_DIR), *map(str, folders)])


def score(job: TaskJob, *folders: Path) -> TaskScore:
    """Run a job in this process."""
    from bench.accuracy.evaluate import run

    return run(job, manager(*folders))


def outcome(score: TaskScore) -> dict[str, Any]:
    """Return the part of a score that must not depend on faults during the run."""
    return score.model_dump(exclude={"duration_s", "work", "engine", "key"})


def picks(score: TaskScore) -> list[str]:
    return [item.answer for item in score.items]


def values(score: TaskScore) -> dict[str, float]:
    return {metric.name: metric.value for metric in score.metrics}
