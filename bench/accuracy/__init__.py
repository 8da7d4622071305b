"""Accuracy on the server that was timed: tasks, prompts and metrics of lm-eval, requests of our own."""
