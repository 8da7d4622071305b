"""The reference server behind ``engine=transformers``: a transformers model behind SGLang's native HTTP API.

One process, two threads that matter: the event loop speaks HTTP (:mod:`.app`, :mod:`.protocol`), the model thread
computes (:mod:`.scheduler`, which batches requests over :mod:`.model`). Requests go one way as callables in a queue,
progress comes back as events on the loop.

::

    HTTP body -> protocol.parse -> Job -> scheduler -> model.forward -> sampling, logprobs -> Progress -> HTTP answer
                                             |              |
                                         prefix.py      kv.py, attention.py

Run it by hand::

    python -m bench.servers.reference --model-path DIR --port 30000
"""
