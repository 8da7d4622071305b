"""The runs of a results folder over time: an index, and the names that select runs."""
