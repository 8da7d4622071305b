"""One module per kind of model source, named by ``source.kind`` in a model config.

Each module holds

- ``Config``: its fields, frozen and checked;
- ``needs(config) -> tuple[str, ...]``: packages it imports;
- ``identity(config) -> dict``: what decides the bytes, for the checkpoint's key; cheap, loads no torch, may ask a hub;
- ``materialize(config, identity, architecture, target) -> str``: writes a 16-bit safetensors checkpoint with its
  tokenizer and returns its provenance in one sentence.

Both raise :class:`SourceUnavailableError` where the weights cannot be had.
"""


class SourceUnavailableError(Exception):
    """The weights cannot be had on this machine; says why and what to do."""
