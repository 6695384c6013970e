"""The part of the hub's HTTP interface that im2sp makes use of, on a free port of this machine."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]
TOKEN = "hf_stand_in"


@dataclass
class Repository:
    """Commits, oldest first, and what may be read by whom."""

    commits: dict[str, Files] = field(default_factory=dict)  # {hash: {name: content}}
    tags: dict[str, str] = field(default_factory=dict)  # {name: hash}
    private: bool = False
    gated: bool = False
    claimed: dict[str, int | None] = field(
        default_factory=dict
    )  # sizes that it tells, where they are not the real ones

    def commit(self, files: Files) -> str:
        """Add a commit; return its hash."""
        name = hashlib.sha1(repr([len(self.commits), *files.items()]).encode()).hexdigest()
        self.commits[name] = files
        return name

    def resolve(self, revision: str) -> str | None:
        """Branch, tag or hash -> hash."""
        if revision == "main":
            return next(reversed(self.commits), None)
        return self.tags.get(revision, revision if revision in self.commits else None)


@dataclass
class Hub:
    """The repositories, and what was asked of them."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)  # "GET /path"

    def add(self, name: str, folder: Path, **more: Any) -> Repository:
        """A repository with one commit: the files of that folder."""
        repository = Repository(**more)
        repository.commit({path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()})
        self.repositories[name] = repository
        return repository


@contextmanager
def serving_hub() -> Iterator[Hub]:
    """A hub that answers until the block ends."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        words = path.strip("/").split("/")
        match words:
            case ["api", "validate-yaml"]:
                self._json({"warnings": [], "errors": []})
            case ["api", "repos", "create"]:
                self._create(json.loads(body))
            case ["api", "models", owner, name, *rest]:
                self._model(f"{owner}/{name}", rest, body)
            case [owner, name, "resolve", revision, *file]:
                self._file(f"{owner}/{name}", revision, "/".join(file))
            case _:
                self._refuse(404, "EntryNotFound")

    def _allowed(self, name: str) -> Repository | None:
        repository = self.hub.repositories.get(name)
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repository is None or (repository.private and not known):
            self._refuse(401, "RepoNotFound")
            return None
        return repository

    def _create(self, wanted: dict[str, Any]) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._refuse(401, "", "Invalid username or password.")
            return
        name = f"{wanted['organization']}/{wanted['name']}"
        private = bool(wanted.get("private")) or wanted.get("visibility") == "private"
        new = self.hub.repositories.setdefault(name, Repository(private=private))
        if not new.commits:
            new.commit({".gitattributes": b""})
        self._json({"url": f"{self.hub.url}/{name}", "name": name})

    def _model(self, name: str, rest: list[str], body: bytes) -> None:
        repository = self._allowed(name)
        if repository is None:
            return
        revision = "/".join(rest[1:]) or "main"
        commit = repository.resolve(revision)
        if commit is None:
            self._refuse(404, "RevisionNotFound")
            return
        files = repository.commits[commit]
        match rest[:1]:
            case [] | ["revision"]:
                told = [
                    {"rfilename": file, "size": repository.claimed.get(file, len(content)), "blobId": _oid(content)}
                    for file, content in files.items()
                ]
                self._json({"id": name, "modelId": name, "sha": commit, "siblings": told, "tags": [], "downloads": 0})
            case ["tree"]:
                self._json([{"type": "file", "path": f, "size": len(c), "oid": _oid(c)} for f, c in files.items()])
            case ["preupload"]:
                asked = [file["path"] for file in json.loads(body)["files"]]
                self._json({"files": [{"path": f, "uploadMode": "regular", "shouldIgnore": False} for f in asked]})
            case ["commit"]:
                new = repository.commit(_committed(files, body))
                self._json({"commitOid": new, "commitUrl": f"{self.hub.url}/{name}/commit/{new}", "success": True})
            case _:
                self._refuse(404, "EntryNotFound")

    def _file(self, name: str, revision: str, file: str) -> None:
        repository = self._allowed(name)
        if repository is None:
            return
        if repository.gated:
            self._refuse(403, "GatedRepo")
            return
        commit = repository.resolve(revision)
        content = repository.commits[commit].get(file) if commit else None
        if content is None:
            self._refuse(404, "EntryNotFound" if commit else "RevisionNotFound")
            return
        headers = {"X-Repo-Commit": commit or "", "ETag": f'"{_oid(content)}"', "Accept-Ranges": "bytes"}
        self._send(200, content, headers)

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str, message: str = "") -> None:
        self._send(status, b"", {"X-Error-Code": code, "X-Error-Message": message or code})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _committed(files: Files, body: bytes) -> Files:
    """The files after a commit: lines of JSON, a header and one operation each."""
    new = dict(files)
    for line in map(json.loads, body.splitlines()):
        if line["key"] == "file":
            new[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        elif line["key"] == "deletedFile":
            del new[line["value"]["path"]]
    return new


def _oid(content: bytes) -> str:
    """As git names it."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
