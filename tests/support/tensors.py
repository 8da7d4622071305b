"""Small safetensors files made of zeros."""

import json
import struct
from pathlib import Path

SIZES = {"BF16": 2, "F32": 4, "F8_E4M3": 1, "I32": 4, "I64": 8}


def write_safetensors(file: Path, facts: dict[str, tuple[str, tuple[int, ...]]]) -> None:
    """Write tensors of zeros, given as {name: (dtype, shape)}."""
    header, offset = {}, 0
    for name, (dtype, shape) in facts.items():
        size = SIZES[dtype]
        for width in shape:
            size *= width
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(offset))
