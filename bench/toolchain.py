"""Which interpreter runs a stage, and whether it has what the stage imports.

So far every stage runs in the current interpreter; what is missing is told before any time is spent.
"""

import importlib.util
import sys
from collections.abc import Iterable

from bench.errors import ToolchainError

EXTRA_OF = {
    "llmcompressor": "quantize",
    "lm_eval": "eval",
    "datasets": "eval",
    "torch": "transformers",
    "transformers": "transformers",
    "compressed_tensors": "transformers",
    "gguf": "transformers",
    "tokenizers": "transformers",
    "huggingface_hub": "transformers",
}


def interpreter_for(packages: Iterable[str], what: str) -> str:
    """Return the Python interpreter that can import ``packages``.

    Args:
        packages: import names.
        what: the stage, for the message.

    Raises:
        ToolchainError: one of them is not installed; names the extra to install.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        extras = sorted({EXTRA_OF.get(name, "demo") for name in missing})
        raise ToolchainError(f"{what} needs {', '.join(missing)}: pip install 'quantbench[{','.join(extras)}]'")
    return sys.executable
