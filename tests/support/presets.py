"""The fields that an engine's preset gives, those of its bases included."""

from functools import cache
from typing import Any

from bench.config.compose import compose_job

URL = "http://127.0.0.1:1"
"""What ``engine=attach`` is given: it has no address of its own."""


@cache
def _checked(engine: str) -> dict[str, Any]:
    address = [f"engine.url={URL}"] if engine == "attach" else []
    return compose_job(["+model=tiny-qwen3", f"engine={engine}", *address, "session=test"]).engine.config.model_dump(
        mode="json"
    )


def engine_fields(engine: str) -> dict[str, Any]:
    """Return the fields of ``engine=NAME``, without its name."""
    return dict(_checked(engine))
