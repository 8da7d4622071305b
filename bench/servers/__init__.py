"""Start an engine's server, check that it is ours and alive, and stop it."""
