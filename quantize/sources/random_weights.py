"""Seeded random weights in a real architecture, with a small tokenizer trained on the embedded text."""

from pathlib import Path
from typing import Any, Literal

from quantize.architecture import Architecture
from quantize.checkpoint import hash_file
from quantize.imports import import_transformers
from quantize.key import Frozen
from quantize.rows import read
from quantize.source import Source
from quantize.texts import DATA

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
POSITIONS = 131_072
"""Context length, that of Qwen3 with YaRN, so that every workload runs on a tiny model."""


class Config(Frozen):
    """Fields of ``source.kind: random_weights``."""

    family: Literal["qwen3", "qwen3_moe"]
    seed: int


def _tokenizer(vocab_size: int) -> Any:
    """Train a byte-level BPE of exactly ``vocab_size`` tokens on the embedded calibration text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(read(DATA / "calibration.jsonl"), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=POSITIONS,
    )


class RandomWeights(Source):
    """Random weights in a real architecture."""

    config: Config

    @property
    def packages(self) -> tuple[str, ...]:
        """Packages that it imports."""
        return ("torch", "transformers", "tokenizers")

    def identity(self) -> dict[str, Any]:
        """Return the settings and the hash of the tokenizer's text; the key also has the architecture."""
        return {**self.config.model_dump(), "tokenizer_text": hash_file(DATA / "calibration.jsonl").sha256}

    def materialize(self, identity: dict[str, Any], architecture: Architecture, target: Path) -> str:
        """Write the random BF16 checkpoint to ``target`` and return its provenance."""
        import_transformers()
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        tokenizer = _tokenizer(architecture.vocab_size)
        shape: dict[str, Any] = {
            "vocab_size": architecture.vocab_size,
            "hidden_size": architecture.hidden_size,
            "intermediate_size": architecture.intermediate_size,
            "num_hidden_layers": architecture.layers,
            "num_attention_heads": architecture.heads,
            "num_key_value_heads": architecture.kv_heads,
            "head_dim": architecture.head_dim,
            "tie_word_embeddings": architecture.tied_embeddings,
            "max_position_embeddings": POSITIONS,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": None,
        }
        if self.config.family == "qwen3_moe":
            shape |= {
                "num_experts": architecture.experts,
                "num_experts_per_tok": architecture.experts_per_token,
                "moe_intermediate_size": architecture.moe_intermediate_size,
                "norm_topk_prob": True,
            }
        torch.manual_seed(self.config.seed)
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(self.config.family, **shape), dtype=torch.bfloat16
        )
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
        return (
            f"random weights (seed {self.config.seed}) in the {self.config.family} architecture: "
            "no knowledge, real shapes"
        )
