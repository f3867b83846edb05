"""A stand-in for the API of the Hugging Face hub: repositories in memory, one user, one organisation."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

TOKEN = "hf_abcdefghijklmnopqrstuvwxyz01234567"
_REPO = re.compile(r"^/api/(models|datasets)/([^/]+/[^/]+)(?:/(.*))?$")
_SHA = "0" * 40


@dataclass
class Repo:
    private: bool
    files: dict[str, bytes] = field(default_factory=dict)


@dataclass
class Hub:
    """What is in the hub: repositories by kind and name, and the requests that it had."""

    url: str = ""
    repos: dict[tuple[str, str], Repo] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    broken: bool = False


def _answer(hub: Hub, method: str, path: str, body: bytes) -> tuple[int, Any]:
    if hub.broken:
        return 400, {"error": f"quota exceeded for Bearer {TOKEN}"}
    if path == "/api/whoami-v2":
        return 200, {"name": "anna", "type": "user", "orgs": [{"name": "lab"}]}
    if path == "/api/validate-yaml":
        return 200, {"errors": [], "warnings": []}
    if path == "/api/repos/create":
        asked = json.loads(body)
        owner = asked.get("organization") or "anna"
        kind, name = f"{asked.get('type', 'model')}s", asked["name"]
        name = name if "/" in name else f"{owner}/{name}"
        if (kind, name) in hub.repos:
            return 409, {"error": "You already created this repo", "url": f"{hub.url}/{name}"}
        hub.repos[kind, name] = Repo(bool(asked.get("private") or asked.get("visibility") == "private"))
        return 200, {"url": f"{hub.url}/{'datasets/' * (kind == 'datasets')}{name}"}
    if found := _REPO.match(path):
        return _of_repo(hub, method, found[1], found[2], found[3] or "", body)
    return 404, {"error": f"{method} {path}"}


def _of_repo(hub: Hub, method: str, kind: str, name: str, rest: str, body: bytes) -> tuple[int, Any]:
    repo = hub.repos.get((kind, name))
    if repo is None:
        return 404, {"error": "Repository not found"}
    if rest.startswith("preupload"):
        asked = [file["path"] for file in json.loads(body)["files"]]
        return 200, {"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in asked]}
    if rest.startswith("tree"):
        return 200, [
            {"type": "file", "path": path, "size": len(data), "oid": _SHA}
            for path, data in repo.files.items()
        ]
    if rest.startswith("commit/"):
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                repo.files[value["path"]] = base64.b64decode(value["content"])
            if line["key"] == "deletedFile":
                del repo.files[value["path"]]
        return 200, {"commitUrl": f"{hub.url}/{name}/commit/{_SHA}", "commitOid": _SHA, "success": True}
    siblings = [{"rfilename": path} for path in repo.files]
    return 200, {"id": name, "private": repo.private, "sha": _SHA, "siblings": siblings, "tags": []}


@contextmanager
def hub_server() -> Iterator[Hub]:
    """A hub on a free port of this machine."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.partition("?")[0]
            hub.requests.append(f"{self.command} {path}")
            status, answer = 401, {"error": "Invalid credentials"}
            if self.headers.get("Authorization") == f"Bearer {TOKEN}":
                status, answer = _answer(hub, self.command, path, body)
            data = json.dumps(answer).encode()
            self.send_response(status)
            if status == 404:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = _serve  # noqa: N815  the names of the base class

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  likewise
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
