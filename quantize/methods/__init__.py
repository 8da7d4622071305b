"""Quantization methods, one module each, named by ``method:`` in a quant config; see :mod:`quantize.method`."""
