"""One module per command of ``quantbench``: its arguments, one call, and its output."""
