"""Web servers on this machine, some of which break off, lie or refuse."""

from __future__ import annotations

import functools
import http.server
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

BIG = np.random.default_rng(0).bytes(3_000_001)


@dataclass
class Web:
    """A web server's files and manners, and what it was asked."""

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    version: str | None = "1"  # of all files, told as ETag
    lengths: bool = True  # whether it says how long an answer is
    breaks: int = 0  # answers that still are to be broken off half way
    refusals: int = 0  # answers that still are to be 503
    pace: float = 0.0  # seconds between two pieces of 64 kB
    other: dict[str, int | str] = field(default_factory=dict)  # a path's status or redirect; 0: it breaks off
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)  # method, path, range
    sent: int = 0
    url: str = ""

    def count(self, method: str) -> int:
        return sum(asked[0] == method for asked in self.asked)


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128  # with Python's 5, some of many clients at once are let in a second later


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, web: Web, *args: Any) -> None:
        self.web = web
        super().__init__(*args)

    def do_HEAD(self) -> None:
        self.do_GET(is_head=True)

    def do_GET(self, is_head: bool = False) -> None:
        web, path = self.web, unquote(urlsplit(self.path).path)
        ranged = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")) if web.ranges else None
        web.asked.append((self.command, path, self.headers.get("Range")))
        content = web.files.get(path)
        if web.refusals:
            web.refusals -= 1
            return self.send_error(503)
        if isinstance(status := web.other.get(path), int):
            self.close_connection = True
            return self.send_error(status) if status else None
        if place := web.other.get(path) or f"{path}/" * (content is None and f"{path}/" in web.files):
            self.send_response(301)
            self.send_header("Location", str(place))
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if content is None:
            return self.send_error(404)
        start = int(ranged[1]) if ranged else 0
        if ranged and start >= len(content):
            return self.send_error(416)
        self.send_response(206 if ranged else 200)
        if web.lengths:
            self.send_header("Content-Length", str(len(content) - start))
        else:
            self.close_connection = True
        self.send_header("Content-Type", "text/html" if path.endswith("/") else "application/octet-stream")
        if ranged:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if web.version:
            self.send_header("ETag", f'"{web.version}"')
        self.end_headers()
        if not is_head:
            self.send(content[start:])
        return None

    def send(self, content: bytes) -> None:
        web, whole = self.web, len(content)
        if web.breaks:
            web.breaks -= 1
            content = content[: whole // 2]
        try:
            for place in range(0, len(content), 1 << 16):
                piece = content[place : place + (1 << 16)]
                self.wfile.write(piece)
                web.sent += len(piece)
                time.sleep(web.pace)
        except (BrokenPipeError, ConnectionResetError):
            pass
        self.close_connection = self.close_connection or len(content) < whole

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def started() -> Iterator[Web]:
    """The server of a ``Web``, whose files and manners may change meanwhile."""
    web = Web()
    server = Server(("127.0.0.1", 0), partial(Handler, web))
    web.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    yield web
    server.shutdown()
    server.server_close()


def index(names: list[str]) -> bytes:
    """A page that lists files, as web servers write it."""
    links = "".join(f'<a href="{name}">{name}</a>\n' for name in ("../", "?C=N;O=D", *names))
    return f"<html><body>{links}</body></html>".encode()


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """The folder behind a real HTTP server on loopback: its URL, and the requests it has got."""
    requests: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, form: str, *values: Any) -> None:
            requests.append(f"{self.command} {self.path}")

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", requests
        server.shutdown()
