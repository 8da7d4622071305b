"""What a server must answer: a fixed list of requests, the recorded answers of a real SGLang, and one way to compare.

``python -m tests.contract.sglang`` (``make contract-sglang``) starts the real server and holds it, and quantbench's
own code for it, to this. ``tests/contract/test_reference.py`` holds the reference server to the same, without SGLang.
"""
