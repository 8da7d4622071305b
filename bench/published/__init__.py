"""Figures published by others, with their source, and what follows from them."""
