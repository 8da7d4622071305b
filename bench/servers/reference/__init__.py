"""The reference server behind ``engine=transformers``: a transformers model behind SGLang's native HTTP API.

It has two main threads: the event loop speaks HTTP (:mod:`.app`, :mod:`.protocol`), and the model thread computes
(:mod:`.scheduler`, which batches requests over :mod:`.model`). Requests reach the model thread as callables in a queue;
progress returns as events on the loop.

::

    HTTP body -> protocol.parse -> Job -> scheduler -> model.forward -> sampling, logprobs -> Progress -> HTTP answer
                                             |              |
                                         prefix.py      kv.py, attention.py

To run it manually::

    python -m bench.servers.reference --model-path DIR --port 30000
"""
