"""Speed on a running server: send, stamp, check, and only then compute."""
