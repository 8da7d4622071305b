"""``python -m tests.contract.vllm``: records the answers of a real vLLM on a CPU to accuracy questions.

vLLM serves a random model of two layers in float32. Tests use the answers, in tests/fixtures/vllm, without vLLM.
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.accuracy.protocols import openai
from bench.accuracy.questions import Question
from bench.engines import vllm
from bench.servers.lifecycle import RunningEngine, serve
from quantize.checkpoint import Checkpoint
from testkit.records import manifest
from tests.contract.answers import sender, to_fixture, write_json
from tests.contract.asked import Asked
from tests.contract.questions import text
from tests.support.paths import FIXTURES
from tests.support.presets import engine_fields

FOLDER = FIXTURES / "vllm"
CONTEXT = 512
VOCAB, BROKEN, END = 300, 297, 299
"""Number of tokens; the token whose embedding gives NaN logits; the token that ends texts."""
IDS = tuple(range(60, 90))
SAID = (48, 31, 64, 56, END)
"""The model's answer to them: ``P?`X``."""
QUESTIONS = {
    "choices": Question(context=IDS, choices=(65, *SAID)),
    "choices_at_end": Question(context=IDS + SAID[:4], choices=(65, END)),
    "continuation": Question(context=IDS[:26], continuation=IDS[26:]),
    "continuation_greedy": Question(context=IDS, continuation=SAID[:3]),
    "text": text(IDS, 3),
    "text_ended": text(IDS, 9),
    "text_stopped": text(IDS, 9, "`"),
    "error_not_finite": Question(context=(BROKEN,), choices=(65, 66)),
    "error_too_long": text(IDS * 18, 1),
    "error_too_many_choices": Question(context=IDS, choices=tuple(range(129))),
    "error_too_many_stops": text(IDS, 9, *map(str, range(5))),
}


def config(**changes: Any) -> vllm.Config:
    """Return the fields of ``engine=vllm`` on a CPU, with ``changes``."""
    return vllm.Config.model_validate({**engine_fields("vllm"), "device": "cpu", **changes})


def write_small(folder: Path) -> None:
    """Write a random model of two layers with a head width that vLLM's CPU kernels support.

    Its first tokens are the printable characters of ASCII, and token 275 is ``<275>``.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    shape = {
        "vocab_size": VOCAB, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 64, "max_position_embeddings": 1024,
        "eos_token_id": END, "pad_token_id": 298, "bos_token_id": None, "tie_word_embeddings": False,
        "initializer_range": 0.1,
    }  # fmt: skip
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen3", **shape), dtype=torch.bfloat16)
    with torch.no_grad():
        model.get_input_embeddings().weight[BROKEN] = float("nan")
        model.get_output_embeddings().weight[BROKEN] = -10 * model.get_output_embeddings().weight.mean(0)
        model.get_output_embeddings().weight[END] *= 2  # so that it is sometimes the likeliest token
    model.save_pretrained(folder)
    letters = ["Ġ", *map(chr, range(ord("!"), ord("~") + 1))]
    words = [*letters, *(f"<{n}>" for n in range(len(letters), VOCAB))]
    bpe = Tokenizer(models.BPE({word: n for n, word in enumerate(words)}, []))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<299>", pad_token="<298>").save_pretrained(folder)


@contextmanager
def serving(folder: Path, **changes: Any) -> Iterator[RunningEngine]:
    """Serve the model in ``folder`` by quantbench's own engine, with ``changes`` of its fields."""
    checkpoint = Checkpoint(path=folder, manifest=manifest("bf16"), reused=False, reason="test")
    with serve(
        vllm.VLLM(name="vllm", config=config(dtype="float32", **changes)),
        checkpoint,
        context_length=CONTEXT,
        what="server of a small model",
        log_file=folder.parent / "server.log",
        on_wait=lambda: None,
    ) as running:
        yield running


def main() -> None:
    """Record."""
    with tempfile.TemporaryDirectory() as work:
        write_small(Path(work) / "small")
        with serving(Path(work) / "small") as engine:
            send = sender(engine.base_url, engine.api_key, flushes=False)
            for name, question in QUESTIONS.items():
                (body,) = openai.requests(question, engine.engine.served_model)
                asked = Asked(openai.PATH, json.loads(json.dumps(body)))
                write_json(FOLDER / f"{name}.json", to_fixture(asked, send(asked), [str(engine.api_key)]))


if __name__ == "__main__":
    main()
