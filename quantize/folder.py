"""A checkpoint folder made by others: which of its files are read, and what is refused, each with one clear line."""

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
BESIDE = ("*.json", "*.txt", "*.model", "*.jinja")
"""What is read beside the weights."""
CODE = "*.py"
"""A checkpoint's own code, which is copied only where it is trusted."""
PICKLES = ("*.bin", "*.pt", "*.pth")


def read_json(file: Path) -> dict[str, Any]:
    """Return the JSON object in ``file``.

    Raises:
        SourceUnavailableError: it is not there, or is something else.
    """
    try:
        content = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise SourceUnavailableError(f"{file.parent} holds no {file.name}: it is no checkpoint folder") from None
    except (OSError, ValueError) as error:
        raise SourceUnavailableError(f"{file} cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise SourceUnavailableError(f"{file} is no JSON object")
    return content


def check_config(config: dict[str, Any], where: str, *, quantized: bool, trust_remote_code: bool) -> None:
    """Check what a config.json says of the checkpoint as a whole.

    Args:
        config: the parsed file.
        where: the checkpoint, for messages.
        quantized: whether a quantized checkpoint is wanted, or one in 16 bits.
        trust_remote_code: whether its own code may be run.

    Raises:
        SourceUnavailableError: it is the other kind of checkpoint, or needs code that is not trusted.
    """
    quantization = config.get("quantization_config")
    if quantization and not quantized:
        method = quantization.get("quant_method", "some method") if isinstance(quantization, dict) else "some method"
        raise SourceUnavailableError(
            f"{where} is already quantized ({method}): give the 16-bit checkpoint as the model, and this one as "
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
            raise SourceUnavailableError(f"{folder}: shard {missing[0]}{more} is missing, which {INDEX} names")
        return [folder / name for name in names]
    if (folder / WHOLE).is_file():
        return [folder / WHOLE]
    if any(folder.glob("*.safetensors")):
        raise SourceUnavailableError(f"{folder} holds shards and no {INDEX}: copy that file too")
    if any(path for pattern in PICKLES for path in folder.glob(pattern)):
        raise SourceUnavailableError(
            f"{folder}: pickled checkpoints are not read; convert it where you trust it: "
            f"AutoModelForCausalLM.from_pretrained('{folder}').save_pretrained('NEW_FOLDER'), the tokenizer likewise"
        )
    raise SourceUnavailableError(f"{folder} holds no {WHOLE} and no {INDEX}")


def _weight_map(folder: Path) -> dict[str, str]:
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not all(
        isinstance(name, str) and "/" not in name for name in weight_map.values()
    ):
        raise SourceUnavailableError(f"{folder / INDEX} has no weight_map from tensors to files beside it")
    return weight_map


def check_weights(folder: Path) -> None:
    """Check that every shard is whole and that together they hold what the index lists. Reads headers only.

    Raises:
        SourceUnavailableError: names the shard or the tensor.
    """
    try:
        held = {file.name: read_header(file).keys() for file in weight_files(folder)}
    except CheckpointError as error:
        raise SourceUnavailableError(f"{error}: copy or download it again") from error
    listed = _weight_map(folder) if (folder / INDEX).is_file() else {}
    lost = next(((name, file) for name, file in listed.items() if name not in held[file]), None)
    if lost:
        raise SourceUnavailableError(f"{folder}: {INDEX} lists {lost[0]} in {lost[1]}, which does not hold it")


def check_tokenizer(folder: Path) -> None:
    """Check that the folder holds a tokenizer.

    Raises:
        SourceUnavailableError: it does not.
    """
    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise SourceUnavailableError(
            f"{folder} holds no tokenizer (none of {', '.join(TOKENIZERS)}): copy the model's tokenizer files into it"
        )


def parts(folder: Path, *, code: bool) -> list[Path]:
    """Return all files that make up the checkpoint, in order of names.

    Args:
        folder: the checkpoint.
        code: whether its own Python files are among them.
    """
    patterns = (*BESIDE, CODE) if code else BESIDE
    beside = {path for pattern in patterns for path in folder.glob(pattern) if path.name != MANIFEST_NAME}
    return sorted({*beside, *weight_files(folder)})


def take(files: Iterable[Path], target: Path) -> None:
    """Put files into ``target``: weights as hard links where the disk allows it, the rest as copies."""
    for file in files:
        if file.suffix == ".safetensors":
            try:
                os.link(file.resolve(), target / file.name)
                continue
            except OSError:
                pass
        shutil.copyfile(file, target / file.name)
