"""Model folders in the published form: a config.json, and shards of zeros."""

import json
from pathlib import Path
from typing import Any

from quantize.folder import INDEX
from tests.support.tensors import write_safetensors

QWEN3 = {
    # layers, hidden, intermediate, heads, kv heads, tied, experts, expert's intermediate: the hub's config.json files.
    # Parameters: computed from these shapes, including norms; they agree with the published totals.
    "Qwen3-0.6B": ((28, 1024, 3072, 16, 8, True, 0, 0), 596_049_920),
    "Qwen3-1.7B": ((28, 2048, 6144, 16, 8, True, 0, 0), 1_720_574_976),
    "Qwen3-4B": ((36, 2560, 9728, 32, 8, True, 0, 0), 4_022_468_096),
    "Qwen3-8B": ((36, 4096, 12288, 32, 8, False, 0, 0), 8_190_735_360),
    "Qwen3-14B": ((40, 5120, 17408, 40, 8, False, 0, 0), 14_768_307_200),
    "Qwen3-32B": ((64, 5120, 25600, 64, 8, False, 0, 0), 32_762_123_264),
    "Qwen3-30B-A3B": ((48, 2048, 6144, 32, 4, False, 128, 768), 30_532_122_624),
    "Qwen3-235B-A22B": ((94, 4096, 12288, 64, 4, False, 128, 1536), 235_093_634_560),
}


def qwen3(name: str) -> dict[str, Any]:
    layers, hidden, intermediate, heads, kv_heads, tied, experts, moe_intermediate = QWEN3[name][0]
    config = {
        "model_type": "qwen3_moe" if experts else "qwen3",
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": 128,
        "vocab_size": 151_936,
        "tie_word_embeddings": tied,
        "max_position_embeddings": 40_960,
    }
    moe = {"num_experts": experts, "num_experts_per_tok": 8, "moe_intermediate_size": moe_intermediate}
    return config | (moe if experts else {})


TENSORS: dict[str, dict[str, tuple[str, tuple[int, ...]]]] = {
    "model-00001-of-00002.safetensors": {"model.embed_tokens.weight": ("BF16", (8, 4))},
    "model-00002-of-00002.safetensors": {"model.norm.weight": ("BF16", (4,)), "lm_head.weight": ("BF16", (8, 4))},
}


def sharded(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, facts in TENSORS.items():
        write_safetensors(folder / name, facts)
    index = {tensor: name for name, facts in TENSORS.items() for tensor in facts}
    (folder / INDEX).write_text(json.dumps({"weight_map": index}))
    (folder / "config.json").write_text(json.dumps(qwen3("Qwen3-0.6B")))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (folder / name).write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    return folder
