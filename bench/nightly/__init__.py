"""The nightly gate: judge the newest session against earlier ones, with output for CI."""
