"""Carries out one planned run, stage by stage, and keeps every result as soon as it exists."""
