"""Servers are asked directly: no proxy of the environment sees a request or a key, and no redirect is followed."""

import asyncio
import contextlib
import http.server
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.accuracy.questions import Question
from bench.errors import AccuracyError, EngineError
from bench.machine.child import Child
from bench.machine.direct import loopback_variables
from bench.servers.readiness import Door
from bench.speed.client import Client
from testkit import streamer
from tests.support.accuracy_jobs import asking
from tests.support.program import Cli

KEY = "sk-key-of-the-server"
TINY = ("+model=tiny-qwen3", "workload.input_lens=[8]", "workload.output_len=4", "workload.trials=1")


class Recorder(http.server.ThreadingHTTPServer):
    """Answers every request alike and records it; serves as a proxy or as the target of a redirect."""

    daemon_threads = True

    def __init__(self, status: int, location: str | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Record)
        self.seen: list[str] = []
        self.status = status
        self.location = location

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Record(http.server.BaseHTTPRequestHandler):
    server: Recorder

    def _answer(self) -> None:
        self.server.seen.append(f"{self.requestline}\n{self.headers}")
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(self.server.status)
        if self.server.location:
            self.send_header("Location", self.server.location + self.path)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_GET = do_POST = do_CONNECT = _answer  # noqa: N815 - http.server's names

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def recorder(status: int, location: str | None = None) -> Iterator[Recorder]:
    with Recorder(status, location) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


def proxied(proxy: Recorder) -> dict[str, str]:
    """Return the variables of a machine behind a proxy, without an exception for this machine."""
    names = ("http_proxy", "https_proxy", "all_proxy")
    variables = {name: proxy.url for spelling in names for name in (spelling, spelling.upper())}
    return {**variables, "no_proxy": "", "NO_PROXY": ""}


def test_a_whole_run_behind_a_proxy_asks_its_server_directly(cli: Cli) -> None:
    with recorder(502) as proxy:
        tasks = ("accuracy.tasks=[mini-mmlu]", "accuracy.limit=2", "accuracy.at_least=2")
        done = cli(*TINY, *tasks, "engine=transformers", **proxied(proxy))
    assert done.returncode == 0, done.stderr + done.stdout
    assert proxy.seen == []


def test_an_attached_server_is_asked_directly(cli: Cli) -> None:
    with recorder(502) as proxy, streamer.running() as server:
        where = (f"engine.url={server.base_url}", "engine.protocol=sglang", "engine.api_key_env=SERVER_KEY")
        done = cli(*TINY, "accuracy=none", "engine=attach", *where, SERVER_KEY=KEY, **proxied(proxy))
    assert done.returncode == 0, done.stderr + done.stdout
    assert proxy.seen == []


ASK = """
import sys, urllib.request
import httpx, requests
for url in sys.argv[1:]:
    print(urllib.request.urlopen(url, timeout=10).status, requests.get(url, timeout=10).status_code,
          httpx.get(url, timeout=10).status_code)
"""


def test_requests_of_children_to_this_machine_go_direct(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with recorder(502) as proxy, recorder(200) as server:
        for name, value in proxied(proxy).items():
            monkeypatch.setenv(name, value)
        port = server.server_address[1]
        urls = (f"http://127.0.0.1:{port}", f"http://localhost:{port}")
        argv = [sys.executable, "-c", ASK, *urls]
        with Child(argv, what="it", log_file=tmp_path / "log", env={}, cwd=tmp_path) as child:
            child.wait(60)
            assert child.exit_code == 0, child.log_text()
        assert child.log_file.read_text().split() == ["200"] * 6
    assert proxy.seen == []


@pytest.mark.parametrize(
    ("variables", "hosts"),
    [
        ({}, "127.0.0.1,localhost,::1"),
        ({"no_proxy": ".corp, 127.0.0.1"}, ".corp,127.0.0.1,localhost,::1"),
        ({"NO_PROXY": "hub.corp", "no_proxy": ""}, "hub.corp,127.0.0.1,localhost,::1"),
        ({"no_proxy": "*"}, "*"),
    ],
)
def test_hosts_that_are_reached_directly_already_stay_so(variables: dict[str, str], hosts: str) -> None:
    assert loopback_variables(variables) == {"no_proxy": hosts, "NO_PROXY": hosts}


def test_the_key_follows_no_redirect() -> None:
    with recorder(200) as other, recorder(307, other.url) as server:
        door = Door(server.url, KEY)
        for body in (None, {"prompt": "Hi"}):
            assert door.ask("/path", body=body) == (307, f"redirects to {other.url}/path".encode())
    assert KEY in server.seen[0]
    assert other.seen == []


def test_a_server_that_redirects_is_named_in_one_line(cli: Cli) -> None:
    with recorder(200) as other, recorder(302, other.url) as server:
        where = (f"engine.url={server.url}", "engine.protocol=sglang", "engine.api_key_env=SERVER_KEY")
        done = cli(*TINY, "accuracy=none", "engine=attach", *where, SERVER_KEY=KEY)
    assert done.returncode == 1
    message = f"{server.url} redirects to {other.url}/server_info, which is not followed: set engine.url to"
    assert len([line for line in done.stderr.splitlines() if message in line]) == 1, done.stderr
    assert other.seen == []


def test_what_measures_follows_no_redirect_either(tmp_path: Path) -> None:
    async def flush(url: str) -> None:
        async with Client(url, protocol="sglang", total_timeout_s=5, stall_timeout_s=5, api_key=KEY) as client:
            await client.flush_cache()

    with recorder(200) as other, recorder(307, other.url) as server:
        with pytest.raises(EngineError, match="HTTP 307"):
            asyncio.run(flush(server.url))
        with asking(server.url, tmp_path / "j") as asker, pytest.raises(AccuracyError, match="HTTP 307"):
            asker.ask([Question(context=(1, 2), continuation=(3,))])
    assert other.seen == []
