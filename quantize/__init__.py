"""Checkpoint in, quantized checkpoint out, with proof. Knows nothing of serving or measuring."""
