"""Whether tonight is worse than the nights before: series, rule, judgement and its output for CI."""
