"""A judge's server that fails at random, and a judge that asks it."""

import json
import random
import threading
import time
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from harness.endpoints.base import JudgeRequest
from harness.endpoints.client import OpenAIJudge
from harness.endpoints.limits import Limits
from harness.endpoints.log import JudgeLog

TIMEOUT = 5.0  # of a busy machine


class Faulty(ThreadingHTTPServer):
    """Rates "text n" with 1 + n % 10; a share of the attempts fails, in one of five ways."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, share: float, seed: int = 0, ways: str = "429 500 slow cut none", port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.share, self.draw, self.ways = share, random.Random(seed), ways.split()
        self.attempts, self.lock, self.delay, self.dead = Counter(), threading.Lock(), 0.0, False

    def handle_error(self, *_):
        """Clients that have given up waiting are part of the test."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        if self.server.dead:
            self.close_connection = True
            return
        text = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][0]["content"]
        with self.server.lock:
            self.server.attempts[text] += 1
            fails = self.server.draw.random() < self.server.share
            way = self.server.draw.choice(self.server.ways) if fails else None
        time.sleep(self.server.delay)
        if way == "slow":
            time.sleep(1.2 * TIMEOUT)
        if way in ("429", "500"):
            return self.answer(int(way), {"error": {"message": "busy"}}, {"Retry-After": "0.01"})
        verdict = "I can not say [[12]]" if way == "none" else f"Rating: [[{1 + int(text.split()[1]) % 10}]]"
        body = {
            "id": "c",
            "object": "chat.completion",
            "created": 0,
            "model": "m",
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": verdict}}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
        }
        self.answer(200, body, cut=way == "cut")

    def answer(self, status, body, headers=None, cut=False):
        content = json.dumps(body).encode()
        content = content[: len(content) // 2] if cut else content
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json"} | (headers or {})).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def serving(share=0.0, **rest):
    server = Faulty(share, **rest)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield server, f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


def requests(number):
    return [JudgeRequest(str(n), ({"role": "user", "content": f"text {n}"},), max_tokens=5) for n in range(number)]


def judge_of(url, folder=None, concurrent=32, **rest):
    log = JudgeLog(folder) if folder else None
    limits = Limits(concurrent, **{name: rest.pop(name) for name in ("max_calls", "max_cost") if name in rest})
    return OpenAIJudge("m", url, log=log, limits=limits, timeout=TIMEOUT, first_wait=0.01, **{"retries": 12} | rest)
