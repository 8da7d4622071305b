"""Libraries that quantize, one module each, named by ``backend:`` in a quant config; see :mod:`quantize.backend`."""
