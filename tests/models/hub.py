"""A model hub on this machine: the parts of the Hugging Face and ModelScope APIs that clients of
models call, with faults on order. Large files are at another address, as they are there.

Their own clients fetch from it too (tests/models/test_hubs.py), which keeps it honest.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_good"
LARGE = (".safetensors", ".bin")


@dataclass(frozen=True)
class Fault:
    """What happens to one request, or to all its bytes from some point on."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    hold_after: int | None = None
    """Stops sending there until the hub's `release` is set."""
    flip_at: int | None = None
    ignores_range: bool = False
    page: bytes | None = None
    """In place of what was asked for: a proxy's page."""


@dataclass
class Repo:
    files: dict[str, bytes]
    commit: str = COMMIT
    gated: bool = False
    has_checksums: bool = True

    def blob_id(self, name: str) -> str:
        data = self.files[name]
        if name.endswith(LARGE):
            data = f"{sha256(data)} {len(data)}".encode()  # a pointer
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass(frozen=True)
class Asked:
    path: str
    range: str | None
    token: str | None
    is_store: bool
    """Asked of the address of large files."""


class Hub:
    def __init__(self, repos: dict[str, Repo]) -> None:
        self.repos = repos
        self.asked: list[Asked] = []
        self.faults: dict[str, deque[Fault]] = {}
        self.num_sent: dict[str, int] = {}
        """Bytes of each file that have left."""
        self.release = threading.Event()
        self._servers = [_Server(self), _Server(self)]

    @property
    def url(self) -> str:
        return self._servers[0].url

    @property
    def store_url(self) -> str:
        return self._servers[1].url

    def fault(self, name: str, *faults: Fault) -> None:
        """For the next requests of the file `name` (its bytes), or of the listing (`""`)."""
        self.faults.setdefault(name, deque()).extend(faults)

    def next_fault(self, name: str) -> Fault:
        waiting = self.faults.get(name)
        return waiting.popleft() if waiting else Fault()

    def stop(self) -> None:
        self.release.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()


@contextmanager
def running_hub(**repos: Repo | dict[str, bytes]) -> Iterator[Hub]:
    """`owner__name=files`."""
    made = {
        name.replace("__", "/"): repo if isinstance(repo, Repo) else Repo(repo)
        for name, repo in repos.items()
    }
    hub = Hub(made)
    try:
        yield hub
    finally:
        hub.stop()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        super().__init__(("127.0.0.1", 0), _Handler)
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients of these tests come and go as they like."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, token = self.server.hub, self.headers.get("Authorization")
        is_store = self.server.url == hub.store_url
        hub.asked.append(Asked(self.path, self.headers.get("Range"), token, is_store))
        parts = urlsplit(self.path)
        path, query = unquote(parts.path), {k: v[0] for k, v in parse_qs(parts.query).items()}
        for pattern, answer in _ROUTES:
            if match := re.fullmatch(pattern, path):
                answer(self, *match.groups(), **query)
                return
        self.reply(404, b"Not Found")

    # ---- Hugging Face ----

    def model_info(self, name: str, revision: str = "main", **query: str) -> None:
        if (repo := self.allowed(name)) is None or self.failed(""):
            return
        if revision not in ("main", repo.commit):
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        siblings: list[dict[str, Any]] = [{"rfilename": name} for name in repo.files]
        for it in siblings if query.get("blobs", "").lower() == "true" else ():
            data = repo.files[it["rfilename"]]
            it["size"] = len(data)
            if not repo.has_checksums:
                continue
            it["blobId"] = repo.blob_id(it["rfilename"])
            if it["rfilename"].endswith(LARGE):
                it["lfs"] = {"sha256": sha256(data), "size": len(data), "pointerSize": 135}
        info = {"_id": "1", "id": name, "modelId": name, "sha": repo.commit, "private": False}
        self.reply_json(info | {"gated": "auto" if repo.gated else False, "siblings": siblings})

    def tree(self, name: str, revision: str, **query: str) -> None:
        if (repo := self.allowed(name)) is None:
            return
        entries: list[dict[str, Any]] = []
        for path, data in repo.files.items():
            entry = {"type": "file", "oid": repo.blob_id(path), "size": len(data), "path": path}
            if path.endswith(LARGE):
                entry["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": 135}
            entries.append(entry)
        self.reply_json(entries)

    def resolve(self, name: str, revision: str, file: str) -> None:
        if (repo := self.allowed(name)) is None:
            return
        if file not in repo.files or revision not in ("main", repo.commit):
            self.refuse(404, "EntryNotFound", "Entry not found")
            return
        data, headers = repo.files[file], {"X-Repo-Commit": repo.commit}
        if file.endswith(LARGE):
            where = f"{self.server.hub.store_url}/store/{name}/{file}"
            linked = {"X-Linked-Etag": f'"{sha256(data)}"', "X-Linked-Size": str(len(data))}
            self.reply(302, headers=headers | linked | {"Location": where})
        else:
            where = f"/api/resolve-cache/models/{name}/{repo.commit}/{file}"
            self.reply(307, headers=headers | {"Location": where})

    def cached(self, name: str, commit: str, file: str) -> None:
        if (repo := self.allowed(name)) is not None:
            headers = {"ETag": f'"{repo.blob_id(file)}"', "X-Repo-Commit": repo.commit}
            self.send_file(file, repo.files[file], headers)

    def store(self, name: str, file: str) -> None:
        """Signed addresses: no token is looked at."""
        data = self.server.hub.repos[name].files[file]
        self.send_file(file, data, {"ETag": f'"{sha256(data)[:32]}"'})

    def allowed(self, name: str) -> Repo | None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        repo = self.server.hub.repos.get(name)
        if token not in ("", TOKEN):
            self.refuse(401, None, "Invalid credentials in Authorization header")
        elif repo is None:
            self.refuse(404 if token else 401, "RepoNotFound", "Repository not found")
        elif repo.gated and token != TOKEN:
            self.refuse(401, "GatedRepo", f"Access to model {name} is restricted.")
        else:
            return repo
        return None

    def refuse(self, status: int, code: str | None, message: str) -> None:
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.reply(status, json.dumps({"error": message}).encode(), headers)

    # ---- ModelScope ----

    def list_files(self, name: str, **query: str) -> None:
        repo = self.server.hub.repos.get(name)
        if self.failed(""):
            return
        if repo is None or query.get("Revision") != "master":
            body = {"Code": 10010205001, "Message": "not exist", "Success": False}
            self.reply(404, json.dumps(body).encode())
            return
        files = [
            {"Path": path, "Name": path, "Type": "blob", "Size": len(data), "Sha256": sha256(data)}
            for path, data in repo.files.items()
        ]
        files.append({"Path": "figures", "Name": "figures", "Type": "tree", "Size": 0})
        self.reply_json({"Code": 200, "Success": True, "Data": {"Files": files}})

    def modelscope_file(self, name: str, **query: str) -> None:
        file = query["FilePath"]
        data = self.server.hub.repos[name].files[file]
        if file.endswith(LARGE):
            where = f"{self.server.hub.store_url}/store/{name}/{file}"
            self.reply(302, headers={"Location": where})
        else:
            self.send_file(file, data, {})

    # ---- answers ----

    def failed(self, name: str) -> bool:
        fault = self.server.hub.next_fault(name)
        if fault.status is not None:
            self.reply(fault.status, b"", fault.headers)
        return fault.status is not None

    def send_file(self, name: str, data: bytes, headers: dict[str, str]) -> None:
        fault = self.server.hub.next_fault(name) if self.command == "GET" else Fault()
        if fault.status is not None:
            self.reply(fault.status, b"", fault.headers)
            return
        if fault.page is not None:
            self.reply(200, fault.page, {"Content-Type": "text/html"})
            return
        if fault.flip_at is not None:
            at = fault.flip_at
            data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        status, begin, total = 200, 0, len(data)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked and not fault.ignores_range:
            status, begin = 206, int(asked[1])
            end = min(int(asked[2]) + 1 if asked[2] else total, total)
            if begin >= total:
                self.reply(416, headers={"Content-Range": f"bytes */{total}"})
                return
            headers = headers | {"Content-Range": f"bytes {begin}-{end - 1}/{total}"}
            data = data[begin:end]
        self.send_head(status, len(data), headers | {"Accept-Ranges": "bytes"})
        if self.command == "GET":
            self.send_body(name, data, fault)

    def send_body(self, name: str, data: bytes, fault: Fault) -> None:
        hub = self.server.hub
        stops = (fault.cut_after, fault.hold_after)
        first = min([len(data), *(stop for stop in stops if stop is not None)])
        self.wfile.write(data[:first])
        hub.num_sent[name] = hub.num_sent.get(name, 0) + first
        if fault.hold_after is not None:
            hub.release.wait(30)
        if fault.cut_after is None and first < len(data):
            self.wfile.write(data[first:])
            hub.num_sent[name] += len(data) - first
        self.close_connection = self.close_connection or first < len(data)

    def reply_json(self, body: object) -> None:
        self.reply(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def reply(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_head(status, len(body), headers or {})
        if self.command == "GET":
            self.wfile.write(body)

    def send_head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(length)}).items():
            self.send_header(name, value)
        self.end_headers()


_REPO = r"([^/]+/[^/]+)"
_ROUTES = (
    (rf"/api/models/{_REPO}", _Handler.model_info),
    (rf"/api/models/{_REPO}/revision/(.+)", _Handler.model_info),
    (rf"/api/models/{_REPO}/tree/([^/]+)", _Handler.tree),
    (rf"/{_REPO}/resolve/([^/]+)/(.+)", _Handler.resolve),
    (rf"/api/resolve-cache/models/{_REPO}/([^/]+)/(.+)", _Handler.cached),
    (rf"/store/{_REPO}/(.+)", _Handler.store),
    (rf"/api/v1/models/{_REPO}/repo/files", _Handler.list_files),
    (rf"/api/v1/models/{_REPO}/repo", _Handler.modelscope_file),
)
