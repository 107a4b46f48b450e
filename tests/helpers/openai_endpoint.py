"""A server on loopback that speaks OpenAI's API, and requests for it."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from harness.endpoints.base import JudgeRequest

KEY = "sk-secret-of-the-test"


def completion(text="Rating: [[7]]", **fields):
    """A chat completion as the API documents it."""
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}, "logprobs": None}
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 0,
        "model": "judge-2024-04-09",
        "system_fingerprint": "fp_44",
        "choices": [choice | fields.pop("choice", {})],
        "usage": {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14},
    } | fields


@contextmanager
def endpoint(answer):
    """A server on loopback; answer(request body, number of the request) gives (status, headers, body)."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                seen.append({"path": self.path, "authorization": self.headers["Authorization"], **body})
                number = len(seen)
            status, headers, content = answer(body, number)
            content = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in ({"Content-Type": "application/json"} | headers).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    seen, lock = [], threading.Lock()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1", seen
        finally:
            server.shutdown()
            thread.join()


def requests(number=1, **fields):
    return [
        JudgeRequest(f"r{index}", ({"role": "user", "content": f"text {index}"},), **fields) for index in range(number)
    ]
