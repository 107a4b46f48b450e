"""A server on loopback that answers with JSON."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from threading import Lock

from loopback import serving


@contextmanager
def json_server(answer: Callable[[str, dict], tuple[int, dict]]) -> Iterator[str]:
    """Its URL; answer(path, asked) is a status and a body, one request at a time."""
    lock = Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer({})

        def do_POST(self) -> None:
            self._answer(json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "{}"))

        def _answer(self, asked: dict) -> None:
            with lock:
                status, body = answer(self.path, asked)
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_arguments) -> None:
            pass

    with serving(Handler) as url:
        yield url
