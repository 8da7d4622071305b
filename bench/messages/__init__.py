"""Texts that people read: each has an id in the code and a wording in the catalogue of each language."""
