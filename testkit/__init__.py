"""Servers with known behaviour and realistic records, shared by tests and benchmarks."""
