"""A server of our own that sends a file in the ways that servers have: whole, in ranges, cut short, and wrong."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """Sends `body` for every address, in ranges where it `knows_ranges`.

    It cuts the connection after each number of bytes in `cuts`, one a request, and waits `seconds` before it answers.
    `asked` are the addresses that were asked for, each with the range.
    """

    daemon_threads = True

    def __init__(self, body: bytes = b"") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body = body
        self.knows_ranges = True
        self.cuts: list[int] = []
        self.seconds = 0.0
        self.asked: list[tuple[str, str | None]] = []

    @property
    def address(self) -> str:
        """What addresses begin with."""
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append((self.path, wanted))
        time.sleep(self.server.seconds)
        if self.path.endswith("/missing"):
            self.send_error(404)
            return
        body, start = self.server.body, 0
        found = re.fullmatch(r"bytes=(\d+)-", wanted or "")
        if found and self.server.knows_ranges:
            start = int(found[1])
            if start >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        cut = self.server.cuts.pop(0) if self.server.cuts else len(body)
        with contextlib.suppress(OSError):  # nobody listens any more
            self.wfile.write(body[start : start + cut])

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the parent's name)
        """Says nothing."""


@contextlib.contextmanager
def serving(body: bytes = b"") -> Iterator[Server]:
    """Yields a server that listens until it is left."""
    with Server(body) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()
