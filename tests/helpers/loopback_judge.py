"""An OpenAI-compatible judge on loopback for tests and trials. It is a rule, not a model: it rates by shared words.

python tests/helpers/loopback_judge.py --port 8808
"""

import argparse
import json
import math
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODEL = "loopback-shared-words"


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]{4,}", text.lower()))


def overlap(question: str, answer: str) -> float:
    """Share of the question's words of four letters or more that the answer has."""
    wanted = words(question)
    return len(wanted & words(answer)) / len(wanted) if wanted else 0.0


def reply(text: str, top_logprobs: int) -> dict:
    """The choice of a chat completion for a judge prompt of AlpacaEval (by first token) or MT-Bench (by rating)."""
    if top_logprobs:
        instruction = text.partition('"instruction": """')[2].partition('"""')[0]
        outputs = [part.partition('"""')[0] for part in text.split('"output": """')[1:]]
        gap = overlap(instruction, outputs[0]) - overlap(instruction, outputs[1])
        share = 1 / (1 + math.exp(-5 * gap))
        top = [{"token": "m", "logprob": math.log(share)}, {"token": "M", "logprob": math.log(1 - share)}]
        top.sort(key=lambda each: -each["logprob"])
        token = {**top[0], "bytes": None, "top_logprobs": [{**each, "bytes": None} for each in top]}
        return {"message": {"role": "assistant", "content": top[0]["token"]}, "logprobs": {"content": [token]}}
    question, _, answer = text.partition("Assistant")
    rating = 1 + round(9 * overlap(question, answer))
    return {"message": {"role": "assistant", "content": f"Shared words. Rating: [[{rating}]]"}, "logprobs": None}


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        choice = reply(asked["messages"][-1]["content"], asked.get("top_logprobs", 0))
        body = json.dumps(
            {
                "id": "loopback",
                "object": "chat.completion",
                "created": 0,
                "model": MODEL,
                "system_fingerprint": "rule-1",
                "choices": [{"index": 0, "finish_reason": "stop", **choice}],
                "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
            }
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments) -> None:
        """Silent: a line for each request helps nobody."""


def serve(port: int = 0) -> ThreadingHTTPServer:
    """A server on a free or given port of 127.0.0.1, not yet running."""
    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8808)
    with serve(parser.parse_args().port) as server:
        print(f"judge {MODEL} at http://127.0.0.1:{server.server_port}/v1")
        server.serve_forever()
