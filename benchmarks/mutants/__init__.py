"""Mutation testing: the share of small changes of the pure modules that the tests detect. ``make mutants`` runs it.

`mutate` finds the mutants, `cover` the tests that run their lines, `worker` runs these tests, and `judge` combines all.
"""
