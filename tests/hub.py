"""A server on loopback that speaks as much of the Hugging Face Hub as its own client needs to read one dataset."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """One dataset repository, NAME, whose files are those of a folder; counts what was fetched of each."""

    daemon_threads = True

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name, self.fetched = folder, name, Counter[str]()
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        name = re.escape(self.server.name)
        if re.fullmatch(rf"/api/datasets/{name}(/revision/[^/]+)?", path):
            self._answer(json.dumps({"id": self.server.name, "sha": COMMIT, "private": False, "tags": []}).encode())
        elif found := re.fullmatch(rf"/api/datasets/{name}/tree/[^/]+(/.*)?", path):
            folder = self.server.folder / (found[1] or "").strip("/")
            if not folder.is_dir():
                return self._refuse("EntryNotFound")
            self._answer(json.dumps([self._describe(entry) for entry in sorted(folder.iterdir())]).encode())
        elif found := re.fullmatch(rf"/datasets/{name}/resolve/[^/]+/(.+)", path):
            self._answer_file(found[1])
        else:
            self._refuse("RepoNotFound")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        paths = json.loads(body)["paths"] if body[:1] == b"{" else parse_qs(body.decode())["paths"]
        if not self.path.startswith(f"/api/datasets/{self.server.name}/paths-info/"):
            return self._refuse("RepoNotFound")
        entries = [self.server.folder / path for path in paths]
        self._answer(json.dumps([self._describe(entry) for entry in entries if entry.exists()]).encode())

    def _describe(self, entry: Path) -> dict[str, object]:
        path = str(entry.relative_to(self.server.folder))
        if entry.is_dir():
            return {"type": "directory", "path": path, "oid": COMMIT}
        return {"type": "file", "path": path, "oid": COMMIT, "size": entry.stat().st_size}

    def _answer_file(self, path: str) -> None:
        file = self.server.folder / path
        if not file.is_file():
            return self._refuse("EntryNotFound")
        data, status = file.read_bytes(), 200
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            last = int(asked[2]) if asked[2] else len(data) - 1
            data, status = data[int(asked[1]) : last + 1], 206
        if self.command == "GET":
            self.server.fetched[path] += 1
        self._answer(data, status=status, ETag=f'"{COMMIT}"')

    def _refuse(self, code: str) -> None:
        self._answer(b"{}", status=404, **{"X-Error-Code": code})

    def _answer(self, data: bytes, *, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), "X-Repo-Commit": COMMIT, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serve_hub(folder: Path, *, name: str) -> Iterator[Hub]:
    """The dataset repository `name`; its client takes the address from HF_ENDPOINT, once, when it is imported."""
    with Hub(folder, name) as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
