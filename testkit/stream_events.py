"""The streamer's events in the format of each API, assembled from prepared pieces."""

import json
from typing import Any, Protocol


class EventScript(Protocol):
    """The parts of a script that determine the events."""

    counts: bool
    continuous: bool
    prompt_tokens: int | None
    cached_tokens: int | None
    text: str


class Answer:
    """The answer to one request in SGLang's native API: each event repeats the complete answer so far."""

    def __init__(self, body: dict[str, Any]) -> None:
        self.body = body
        self.prompt: list[int] | str = body["input_ids"] if "input_ids" in body else body["text"]
        self.wanted: int = body["sampling_params"]["max_new_tokens"]

    @property
    def streamed(self) -> bool:
        return bool(self.body.get("stream"))

    def begin(self, script: EventScript) -> None:
        """Prepare the parts that all events share."""
        self.script = script
        length = len(self.prompt) if isinstance(self.prompt, list) else len(self.prompt.split())
        self.prompt_tokens = length if script.prompt_tokens is None else script.prompt_tokens
        self.text = json.dumps(script.text)[1:-1].encode()
        self.prepare()

    def prepare(self) -> None:
        self.ids = ""
        self.meta = f'"prompt_tokens": {self.prompt_tokens}, "cached_tokens": {json.dumps(self.script.cached_tokens)}'

    def role(self) -> bytes:
        return b'{"choices": [{"delta": {"role": "assistant", "content": ""}}]}'

    def event(self, tokens: int, total: int, finish: str | None) -> bytes:
        self.ids += "".join(f"{number}, " for number in range(total - tokens, total))
        reason = {"type": finish, "length": total}
        if finish == "abort":
            reason |= {"message": "scripted abort", "status_code": 500}
        counts = f', "completion_tokens": {total}' if self.script.counts else ""
        head = f'"id": "0", "finish_reason": {json.dumps(reason) if finish else "null"}, '
        end = f'"meta_info": {{{head}{self.meta}{counts}}}'
        return b'{"text": "%b", "output_ids": [%b], %b}' % (self.text * total, self.ids[:-2].encode(), end.encode())

    def usage_event(self, total: int) -> bytes | None:
        """Return the event with the usage only, in APIs that have one and if it was requested."""
        return None

    def whole(self, total: int) -> dict[str, Any]:
        """Return the answer without streaming."""
        answer: dict[str, Any] = json.loads(self.event(total, total, "length"))
        return answer


class Completion(Answer):
    """The answer in OpenAI's completions API: each event carries new text."""

    KIND = "text_completion"
    DELTA = b'"text":"%b"'

    def __init__(self, body: dict[str, Any]) -> None:
        self.body = body
        self.prompt = self.read_prompt()
        self.wanted = body.get("max_tokens") or body.get("max_completion_tokens") or 16
        self.options: dict[str, bool] = body.get("stream_options") or {}

    def read_prompt(self) -> list[int] | str:
        prompt: list[Any] | str = self.body["prompt"]
        # A single prompt may be in a list.
        return prompt[0] if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else prompt

    def prepare(self) -> None:
        self.has_usage = self.script.counts and bool(self.options.get("include_usage") or not self.streamed)
        self.running = self.has_usage and self.script.continuous and bool(self.options.get("continuous_usage_stats"))
        head = f'{{"id":"cmpl-0","object":"{self.KIND}","created":1,"model":"fake","choices":'
        self.head = head.encode()
        self.part = self.head + b'[{"index":0,' + self.DELTA + b',"logprobs":null,"finish_reason":%b}]'

    def usage(self, total: int) -> bytes:
        cached = self.script.cached_tokens
        details = "null" if cached is None else f'{{"cached_tokens":{cached}}}'
        return (
            f'{{"prompt_tokens":{self.prompt_tokens},"total_tokens":{self.prompt_tokens + total},'
            f'"completion_tokens":{total},"prompt_tokens_details":{details}}}'
        ).encode()

    def role(self) -> bytes:
        return self.part % (b"", b"null") + b"}"

    def event(self, tokens: int, total: int, finish: str | None) -> bytes:
        reason = b'"%b"' % finish.encode() if finish else b"null"
        usage = b',"usage":%b' % self.usage(total) if self.running else b',"usage":null' if self.has_usage else b""
        return self.part % (self.text * tokens, reason) + usage + b"}"

    def usage_event(self, total: int) -> bytes | None:
        return self.head + b'[],"usage":%b}' % self.usage(total) if self.has_usage else None

    def whole(self, total: int) -> dict[str, Any]:
        text = json.loads(b'"%b"' % (self.text * total))
        choice = {"index": 0, "text": text, "finish_reason": "length"}
        return {"id": "cmpl-0", "object": self.KIND, "choices": [choice], "usage": json.loads(self.usage(total))}


class Chat(Completion):
    """The answer in OpenAI's chat completions API."""

    KIND = "chat.completion.chunk"
    DELTA = b'"delta":{"content":"%b"}'

    def read_prompt(self) -> list[int] | str:
        return " ".join(
            message["content"] if isinstance(message["content"], str) else json.dumps(message["content"])
            for message in self.body["messages"]
        )

    def role(self) -> bytes:
        return self.head + b'[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}'

    def whole(self, total: int) -> dict[str, Any]:
        plain = super().whole(total)
        text = plain["choices"][0].pop("text")
        plain["choices"][0]["message"] = {"role": "assistant", "content": text}
        return plain | {"object": "chat.completion"}


def answer_for(path: str, body: dict[str, Any]) -> Answer:
    """Return the answer to a request at ``path``."""
    return {"/generate": Answer, "/v1/completions": Completion, "/v1/chat/completions": Chat}[path](body)
