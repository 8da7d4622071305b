"""A Hugging Face hub over real HTTP, with the contents and faults that a test sets."""

import hashlib
import http.server
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Repo:
    """One repository with one commit."""

    files: dict[str, bytes]
    kind: str = "model"
    commit: str = COMMIT
    branches: tuple[str, ...] = ("main",)
    gated: bool = False


@dataclass
class Hub:
    """The hub's contents and the requests that it received."""

    repos: dict[str, Repo] = field(default_factory=dict)
    cut: dict[str, list[int]] = field(default_factory=dict)
    """File name → bytes after which its first, second, … download is cut off; later ones are complete."""
    status: int = 0
    """Answer everything with this status."""
    asked: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    url: str = ""

    def env(self, home: Path) -> dict[str, str]:
        """Return the environment variables that make huggingface_hub use this hub."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "no_proxy": "127.0.0.1",
        }


def offline_env(home: Path) -> dict[str, str]:
    """Return the environment variables that make huggingface_hub find no server."""
    return {**Hub(url="http://127.0.0.1:9").env(home)}


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *arguments: object) -> None:
        pass

    def _answer(self, status: int, body: bytes = b"", cut: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:cut])

    def _json(self, value: object) -> None:
        self._answer(200, json.dumps(value).encode(), Content_Type="application/json")

    def _refuse(self, status: int, code: str) -> None:
        self._answer(status, X_Error_Code=code, X_Error_Message=code)

    def do_GET(self) -> None:
        self.hub.asked.append(f"{self.command} {self.path}")
        if self.hub.status:
            self._answer(self.hub.status)
            return
        words = unquote(urlsplit(self.path).path).strip("/").split("/")
        api = words[0] == "api"
        words = words[1:] if api else words
        kind = "dataset" if words[0] == "datasets" else "model"
        words = words[1:] if words[0] in ("models", "datasets") else words
        name, rest = "/".join(words[:2]), words[2:]
        repo = self.hub.repos.get(name)
        if repo is None or repo.kind != kind:
            self._refuse(401, "RepoNotFound")
        elif rest[1] not in (*repo.branches, repo.commit):
            self._refuse(404, "RevisionNotFound")
        elif api and rest[0] == "revision":
            siblings = [{"rfilename": path} for path in repo.files]
            self._json({"id": name, "sha": repo.commit, "siblings": siblings, "private": False, "tags": []})
        elif api:
            self._tree(repo, "/".join(rest[2:]))
        elif repo.gated:
            self._refuse(403, "GatedRepo")
        else:
            self._file(repo, "/".join(rest[2:]))

    do_HEAD = do_GET  # noqa: N815

    def _tree(self, repo: Repo, folder: str) -> None:
        inside = [path for path in repo.files if path.startswith(f"{folder}/" if folder else "")]
        self._json([{"type": "file", "path": path, "size": len(repo.files[path]), "oid": "0" * 40} for path in inside])

    def _file(self, repo: Repo, path: str) -> None:
        if path not in repo.files:
            self._refuse(404, "EntryNotFound")
            return
        body = repo.files[path]
        headers = {
            "ETag": f'"{hashlib.sha256(body).hexdigest()}"',
            "X_Repo_Commit": repo.commit,
            "Accept_Ranges": "bytes",
        }
        status = 200
        if (wanted := self.headers.get("Range")) and self.command == "GET":
            self.hub.ranges.append(wanted)
            start = int(wanted.removeprefix("bytes=").split("-")[0])
            headers["Content_Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            body, status = body[start:], 206
        cuts = self.hub.cut.get(path, [])
        cut = cuts.pop(0) if cuts and self.command == "GET" else None
        self._answer(status, body, cut, **headers)


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Serve ``hub`` on this machine."""
    handler: Any = type("Handler", (_Handler,), {"hub": hub})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def clean_environment(**more: str) -> dict[str, str]:
    """Return this process's environment with ``more`` and without variables that select another hub."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "QUANTBENCH_HUB"))}
    return {**env, **more}
