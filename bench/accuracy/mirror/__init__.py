"""A local mirror of the benchmark data: build it, check it, list what it holds."""
