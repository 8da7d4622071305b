"""An engine's server: start it, check that it is the process that was started and is alive, stop it."""
