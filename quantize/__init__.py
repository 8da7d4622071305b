"""Quantize a checkpoint and prove the result. Independent of serving and measuring."""
