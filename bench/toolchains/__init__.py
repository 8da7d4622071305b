"""Pinned environments for libraries that cannot share one interpreter: find, build and check them."""
