"""The words of ``quantbench``: for each one module with its arguments, one call and what it prints."""
