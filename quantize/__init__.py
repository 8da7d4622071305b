"""Quantize a checkpoint and prove the result. Knows nothing of serving or measuring."""
