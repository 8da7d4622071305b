"""An attached engine's config, and a server with a few paths."""

import json
from collections.abc import Callable
from typing import Any

from bench.engines import attach
from tests.support.presets import engine_fields

SHAPE: dict[str, Any] = {
    "layers": 2, "hidden_size": 64, "intermediate_size": 128, "heads": 4, "kv_heads": 2, "head_dim": 16,
    "vocab_size": 300, "tied_embeddings": False,
}  # fmt: skip


def fields(**changes: Any) -> dict[str, Any]:
    return {**engine_fields("attach"), **changes}


def config(**changes: Any) -> attach.Config:
    return attach.Config.model_validate(fields(**changes))


def answers(**by_path: Any) -> Callable[[str], tuple[int, bytes]]:
    """Return a function that asks a server with only these paths; ``v1_models`` means ``/v1/models``."""
    known = {"/" + name.replace("__", "/"): json.dumps(body).encode() for name, body in by_path.items()}
    return lambda path: (200, known[path]) if path in known else (404, b"no such page")


def engine(**changes: Any) -> attach.Attach:
    return attach.Attach(name="attach", config=config(**changes))
