"""One module per engine, named by ``name:`` in an engine config.

Each module holds

- ``Config``: its fields, frozen and checked; ``startup_timeout_s``, ``request_timeout_s`` and ``stall_timeout_s``
  among them;
- ``NEEDS``: packages the server imports;
- ``command(config, interpreter, checkpoint, model, port) -> list[str]``;
- ``environment(config) -> dict[str, str]``: variables for the server;
- ``emulates(config, manifest) -> bool``: whether it computes on kernels other than those of what is quantized.

Every engine speaks the native HTTP API of SGLang; :mod:`bench.engines.lifecycle` starts and stops them all.
"""
