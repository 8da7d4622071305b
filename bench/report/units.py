"""Units that are words. Those that every language shares (s, W, nats, tokens/s) are written where they are used."""

from bench.messages.message import msg

BITS = msg("unit.bits")
BYTES = msg("unit.bytes")
TOKENS = msg("unit.tokens")
REQUESTS = msg("unit.requests")
DOLLARS = msg("unit.dollars")
NATS_PER_TOKEN = msg("unit.nats_per_token")
OF_ONE = msg("unit.of_one")
"""A share of 1."""
TIMES = msg("unit.times")
"""A ratio."""
