"""Plan a command: its stages, the devices and memory that it needs, and its expected duration."""
