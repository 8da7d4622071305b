"""Compose the configs of a command and check them into frozen run specs."""
