"""An external checkpoint folder: which of its files are read, and what is refused, each with a one-line message."""

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from quantize.checkpoint import MANIFEST_NAME, CheckpointError, read_header
from quantize.errors import SourceUnavailableError

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
WHOLE = "model.safetensors"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
SIDE_FILES = ("*.json", "*.txt", "*.model", "*.jinja")
"""Files that are read in addition to the weights."""
CODE = "*.py"
"""A checkpoint's own code, which is copied only if it is trusted."""
PICKLES = ("*.bin", "*.pt", "*.pth")


def read_json(file: Path) -> dict[str, Any]:
    """Return the JSON object in ``file``.

    Raises:
        SourceUnavailableError: the file is missing, or is not a JSON object.
    """
    try:
        content = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise SourceUnavailableError(f"{file.parent} has no {file.name}: it is not a checkpoint folder") from None
    except (OSError, ValueError) as error:
        raise SourceUnavailableError(f"{file} cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise SourceUnavailableError(f"{file} is not a JSON object")
    return content


def check_config(config: dict[str, Any], where: str, *, quantized: bool, trust_remote_code: bool) -> None:
    """Check the kind of a checkpoint by its config.json.

    Args:
        config: the parsed file.
        where: the checkpoint, for messages.
        quantized: whether the checkpoint must be quantized, or else in 16 bits.
        trust_remote_code: whether its own code may be run.

    Raises:
        SourceUnavailableError: it is the other kind of checkpoint, or needs code that is not trusted.
    """
    quantization = config.get("quantization_config")
    if quantization and not quantized:
        method = quantization.get("quant_method", "some method") if isinstance(quantization, dict) else "some method"
        raise SourceUnavailableError(
            f"{where} is already quantized ({method}): use the 16-bit checkpoint as the model, and this one as "
            "quant.source="
        )
    if quantized and not quantization:
        raise SourceUnavailableError(f"{where} is not quantized: its config.json has no quantization_config")
    code = config.get("auto_map")
    if code and "--" in json.dumps(code):
        raise SourceUnavailableError(
            f"{where} runs code of another repository (auto_map in config.json): not supported"
        )
    if code and not trust_remote_code:
        raise SourceUnavailableError(
            f"{where} runs code of its own (auto_map in config.json): read it, then type "
            "model.source.trust_remote_code=true"
        )


def weight_files(folder: Path) -> list[Path]:
    """Return the folder's weights, in order of names: the shards of its index, or ``model.safetensors``.

    Raises:
        SourceUnavailableError: there are none, or a shard is missing.
    """
    if (folder / INDEX).is_file():
        names = sorted(set(_weight_map(folder).values()))
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise SourceUnavailableError(f"{folder}: shard {missing[0]}{more}, listed in {INDEX}, is missing")
        return [folder / name for name in names]
    if (folder / WHOLE).is_file():
        return [folder / WHOLE]
    if any(folder.glob("*.safetensors")):
        raise SourceUnavailableError(f"{folder} has shards but no {INDEX}: copy that file too")
    if any(path for pattern in PICKLES for path in folder.glob(pattern)):
        raise SourceUnavailableError(
            f"{folder}: pickled checkpoints are not supported; if you trust it, convert it: "
            f"AutoModelForCausalLM.from_pretrained('{folder}').save_pretrained('NEW_FOLDER'), the tokenizer likewise"
        )
    raise SourceUnavailableError(f"{folder} has neither {WHOLE} nor {INDEX}")


def _weight_map(folder: Path) -> dict[str, str]:
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not all(
        isinstance(name, str) and "/" not in name for name in weight_map.values()
    ):
        raise SourceUnavailableError(f"{folder / INDEX} has no weight_map from tensors to files in the same folder")
    return weight_map


def check_weights(folder: Path) -> None:
    """Check that every shard is complete and that the shards have all tensors of the index. Reads headers only.

    Raises:
        SourceUnavailableError: a shard or a tensor is missing; names it.
    """
    try:
        stored = {file.name: read_header(file).keys() for file in weight_files(folder)}
    except CheckpointError as error:
        raise SourceUnavailableError(f"{error}: copy or download it again") from error
    listed = _weight_map(folder) if (folder / INDEX).is_file() else {}
    missing = next(((name, file) for name, file in listed.items() if name not in stored[file]), None)
    if missing:
        raise SourceUnavailableError(f"{folder}: {INDEX} lists {missing[0]} in {missing[1]}, which does not have it")


def check_tokenizer(folder: Path) -> None:
    """Check that the folder has a tokenizer.

    Raises:
        SourceUnavailableError: it has none.
    """
    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise SourceUnavailableError(
            f"{folder} has no tokenizer (none of {', '.join(TOKENIZERS)}): copy the model's tokenizer files into it"
        )


def parts(folder: Path, *, code: bool) -> list[Path]:
    """Return all files of the checkpoint, in order of names.

    Args:
        folder: the checkpoint.
        code: whether to include its own Python files.
    """
    patterns = (*SIDE_FILES, CODE) if code else SIDE_FILES
    side_files = {path for pattern in patterns for path in folder.glob(pattern) if path.name != MANIFEST_NAME}
    return sorted({*side_files, *weight_files(folder)})


def take(files: Iterable[Path], target: Path) -> None:
    """Add files to ``target``: weights as hard links where the file system allows it, others as copies."""
    for file in files:
        if file.suffix == ".safetensors":
            try:
                os.link(file.resolve(), target / file.name)
                continue
            except OSError:
                pass
        shutil.copyfile(file, target / file.name)
