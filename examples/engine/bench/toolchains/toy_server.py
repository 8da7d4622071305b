"""``toy_server.py FOLDER PORT DTYPE``: the parts of OpenAI's completions API that quantbench uses.

It runs in the engine's interpreter and imports nothing from quantbench. The key is in TOY_API_KEY.
"""

import json
import os
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

FOLDER, PORT, DTYPE, KEY = sys.argv[1], int(sys.argv[2]), sys.argv[3], os.environ["TOY_API_KEY"]
MODEL = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=getattr(torch, DTYPE))
TOKENIZER = AutoTokenizer.from_pretrained(FOLDER)
ABOUT = {"data": [{"id": "toy", "max_model_len": MODEL.config.max_position_embeddings}]}
COMPUTING = threading.Lock()


def answer(prompt: list[int], count: int) -> Iterator[dict[str, Any]]:
    """Yield an event for each of ``count`` greedy tokens; an end-of-text token does not end the answer."""
    ids, cache = torch.tensor([prompt]), None
    for number in range(1, count + 1):
        with torch.inference_mode():
            output = MODEL(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        ids, cache = output.logits[:, -1:].argmax(dim=-1), output.past_key_values
        choice = {"text": TOKENIZER.decode(ids[0]), "finish_reason": "length" if number == count else None}
        usage = {"prompt_tokens": len(prompt), "completion_tokens": number}
        yield {"choices": [choice], "usage": {**usage, "prompt_tokens_details": {"cached_tokens": 0}}}


class Handler(BaseHTTPRequestHandler):
    """Answers the request of a connection and closes it."""

    def reply(self, status: int, *parts: str) -> None:
        """Send a status and a body."""
        self.send_response(status)
        self.end_headers()
        self.wfile.write("".join(parts).encode())

    def do_GET(self) -> None:
        """Answer ``/health``, which is polled until it returns 200, and ``/v1/models``."""
        self.reply(200 if self.path in ("/health", "/v1/models") else 404, json.dumps(ABOUT))

    def do_POST(self) -> None:
        """Answer ``/v1/completions``: token ids or text, streamed or not."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = TOKENIZER.encode(asked["prompt"]) if isinstance(asked["prompt"], str) else asked["prompt"]
        if self.path != "/v1/completions" or self.headers["Authorization"] != f"Bearer {KEY}":
            self.reply(401)
            return
        with COMPUTING:
            events = answer(prompt, asked["max_tokens"])
            if not asked.get("stream"):
                *_, last = events
                self.reply(200, json.dumps(last))
                return
            self.reply(200)
            for event in events:
                self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
            self.wfile.write(b"data: [DONE]\n\n")


def end_with_parent() -> None:
    """Exit when standard input closes, which the kernel does however quantbench ends."""
    while os.read(0, 1024):
        pass
    os._exit(0)


threading.Thread(target=end_with_parent, daemon=True).start()
ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
