"""Accuracy of the server that is measured: tasks, prompts and metrics from lm-eval, requests from quantbench."""
