"""Servers whose truth is known, and records as runs leave them: what tests and benchmarks share."""
