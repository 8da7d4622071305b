"""Mutation testing: how many small changes of the pure modules do the tests notice? ``make mutants`` runs it.

`mutate` finds the mutants, `cover` the tests that run their lines, `worker` runs these, `judge` puts all together.
"""
