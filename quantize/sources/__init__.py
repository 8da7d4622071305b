"""Model sources, one module per kind, named by ``source.kind`` in a model config; see :mod:`quantize.source`."""
