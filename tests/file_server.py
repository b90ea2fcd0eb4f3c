"""A real HTTP server of a folder, on loopback, that can cut connections and take its time."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@contextmanager
def serve_files(folder: Path) -> Iterator[FileServer]:
    """A server that answers from a thread of its own while the context lasts."""
    with FileServer(folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.stopping.set()
        server.shutdown()
        thread.join()


class FileServer(ThreadingHTTPServer):
    """Files over HTTP; counts requests, and cuts off the answers for as many requests of a name as asked for.

    Of names in `silent` it never sends anything, and of names in `endless` more and more.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked, self.cut = folder, Counter[str](), Counter[str]()
        self.silent, self.endless = set[str](), set[str]()
        self.pause_seconds, self.stopping = 0.0, threading.Event()
        super().__init__(("127.0.0.1", 0), _FileHandler)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _FileHandler(SimpleHTTPRequestHandler):
    server: FileServer

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, directory=str(args[2].folder), **options)

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        self.server.asked[name] += 1
        if name in self.server.silent:
            self.server.stopping.wait()
            return
        if name in self.server.endless:
            self.send_response(200)
            self.end_headers()
            with suppress(ConnectionError):
                while not self.server.stopping.is_set():
                    self.wfile.write(bytes(1 << 16))
            self.close_connection = True
            return
        if self.server.cut[name]:
            self.server.cut[name] -= 1
            data = (self.server.folder / self.path.lstrip("/")).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return
        if self.server.pause_seconds:
            return self._trickle((self.server.folder / ("data" if name.endswith(".tar") else "") / name).read_bytes())
        super().do_GET()

    def _trickle(self, data: bytes) -> None:
        self.send_response(200)
        for header, value in (
            ("Content-Length", str(len(data))), ("ETag", '"1"'), ("Last-Modified", self.date_time_string())
        ):  # fmt: skip
            self.send_header(header, value)
        self.end_headers()
        step = -(-len(data) // 10)
        with suppress(ConnectionError):  # the client has had enough
            for start in range(0, len(data), step):
                self.wfile.write(data[start : start + step])
                self.server.stopping.wait(self.server.pause_seconds)

    def log_message(self, format: str, *args: object) -> None:
        pass
