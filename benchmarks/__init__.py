"""Benchmarks of quantbench itself, each compared with a peer. ``make bench`` runs them all."""
