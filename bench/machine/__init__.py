"""The machine of a run: its devices, their peaks, the environment, leases and child processes."""
