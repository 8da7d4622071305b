"""An engine's server: start it, check that it is ours and alive, stop it."""
