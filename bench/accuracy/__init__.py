"""Accuracy on the server that was timed: lm-eval's tasks, prompts and metrics, our way of asking."""
