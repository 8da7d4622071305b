"""The fields of an engine's preset, including those of its bases."""

from functools import cache
from typing import Any

from bench.config.compose import compose_job

URL = "http://127.0.0.1:1"
"""The fields that ``engine=attach`` requires: it has no default address."""


@cache
def _checked(engine: str) -> dict[str, Any]:
    address = [f"engine.url={URL}"] if engine == "attach" else []
    return compose_job(["+model=tiny-qwen3", f"engine={engine}", *address, "session=test"]).engine.config.model_dump(
        mode="json"
    )


def engine_fields(engine: str) -> dict[str, Any]:
    """Return the fields of ``engine=NAME``, without its name; ``engine`` may be the name of its module."""
    return dict(_checked(engine.replace("_", "-")))
