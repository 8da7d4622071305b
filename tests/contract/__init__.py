"""The contract of a server: a fixed list of requests, the recorded answers of a real SGLang, and their comparison.

``python -m tests.contract.sglang`` (``make contract-sglang``) starts the real server and checks it, and quantbench's
own code for it, against the contract. ``tests/contract/test_reference.py`` checks the reference server, without SGLang.
"""
