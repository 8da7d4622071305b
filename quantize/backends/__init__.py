"""One module per library that can quantize, named by ``backend:`` in a quant config.

Each holds ``TOOLCHAIN``, the name of the environment it runs in, ``PACKAGES``, the names it imports, and a function for
each method it knows, named like the method: ``gptq(config, architecture, source, target, samples) -> Made`` writes a
whole checkpoint folder. A backend runs inside its toolchain's interpreter, imports its library inside its functions,
and nothing of ``bench`` anywhere.
"""
