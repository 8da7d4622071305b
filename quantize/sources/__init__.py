"""One module per kind of model source, named by ``source.kind`` in a model config.

Each module holds

- ``Config``: its fields, frozen and checked; with ``quantized: bool`` where it can also give a checkpoint that others
  have quantized;
- ``needs(config) -> tuple[str, ...]``: packages it imports;
- ``identity(config) -> dict``: what decides the bytes, for the checkpoint's key; cheap, loads no torch, may ask a hub;
- ``materialize(config, identity, architecture, target) -> str``: writes a 16-bit safetensors checkpoint with its
  tokenizer and returns its provenance in one sentence;
- ``describe(config) -> (name, architecture, context length)``, where shapes can be read from the source itself, for
  model configs that leave them out;
- ``download_bytes(config, identity) -> int | None``, where weights are downloaded: how much is still to come.

All raise :class:`SourceUnavailableError` where the weights cannot be had.
"""


class SourceUnavailableError(Exception):
    """The weights cannot be had on this machine; says why and what to do."""
