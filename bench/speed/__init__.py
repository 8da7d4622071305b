"""Speed of a running server: send requests, time stamp the answers, check them, and only then compute figures."""
