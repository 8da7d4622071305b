"""quantbench: quantize a language model, serve it, measure it, and say with statistics what the variant is worth.

Importing this package loads neither torch nor transformers nor lm-eval: heavy work runs in subprocesses.
"""

__version__ = "0.1.0"
