"""Benchmarks of quantbench itself, each beside a peer. ``make bench`` runs them all."""
