"""One module for each word of ``quantbench``: its arguments, one call, and what it prints."""
