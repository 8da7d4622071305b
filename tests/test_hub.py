"""A hub whose download stops half-way, over real HTTP."""

import http.server
import json
import threading
from collections.abc import Iterator
from typing import ClassVar

import pytest

from tests.conftest import Cli

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {"config.json": b'{"model_type": "qwen3"}', "model.safetensors": b"x" * 100_000}


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers what huggingface_hub asks for one repository; the weights end after a tenth of the promised bytes."""

    asked: ClassVar[list[str]] = []

    def log_message(self, *arguments: object) -> None:
        pass

    def _json(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self) -> None:
        self.asked.append(self.path)
        path = self.path.partition("?")[0]
        if "/revision/" in path:
            siblings = [{"rfilename": name} for name in FILES]
            self._json(
                {
                    "id": "Qwen/Qwen3-8B",
                    "sha": COMMIT,
                    "siblings": siblings,
                    "private": False,
                    "tags": [],
                    "downloads": 0,
                }
            )
        elif "/tree/" in path:
            self._json(
                [{"type": "file", "path": name, "size": len(body), "oid": "0" * 40} for name, body in FILES.items()]
            )
        else:
            name = path.rpartition("/")[2]
            body = FILES[name]
            self.send_response(200)
            self.send_header("ETag", f'"{name}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body[: len(body) // 10] if name.endswith(".safetensors") else body)

    do_HEAD = do_GET  # noqa: N815


@pytest.fixture
def hub() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_download_that_stops_half_way_is_one_clear_line(cli: Cli, hub: str) -> None:
    done = cli(
        "+model=qwen3-8b",
        "workload=none",
        "accuracy=none",
        HF_ENDPOINT=hub,
        HF_HOME=str(cli.folder / "hf"),
        HF_HUB_DISABLE_XET="1",
    )
    assert done.returncode == 1, done.stderr
    assert any("model.safetensors" in path for path in Hub.asked), Hub.asked
    assert "cannot get Qwen/Qwen3-8B@main from the hub" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((cli.folder / "results").glob("runs/*/cells/*"))
