"""What this machine has and runs: devices, peaks, environment, leases and child processes."""
