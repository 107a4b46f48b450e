"""A hub on this machine: as much of its API as reading the files of a data set, or fetching those of a model, takes."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

from loopback import serving

COMMIT = "c0ffee" * 6 + "beef"


@contextmanager
def loopback_hub(repositories: Mapping[str, Mapping[str, bytes]]) -> Iterator[str]:
    """The URL (HF_ENDPOINT) of a hub with these data sets and models: OWNER/NAME to the contents of files by name."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_) -> None:
            pass

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = urlsplit(self.path).path.removeprefix("/api")
            path = path.removeprefix("/datasets").removeprefix("/models").removeprefix("/")
            name, kind, rest = "/".join(path.split("/")[:2]), *(path.split("/", 4) + [""] * 5)[2:5:2]
            if name not in repositories:
                self.say(404, error="RepoNotFound")
            elif kind == "resolve" and rest not in repositories[name]:
                self.say(404, error="EntryNotFound")
            elif kind == "resolve":
                self.say(200, repositories[name][rest])
            elif kind == "tree":
                files = [
                    {"type": "file", "path": file, "size": len(data), "oid": COMMIT}
                    for file, data in repositories[name].items()
                ]
                self.say(200, json.dumps([] if rest else files).encode())
            else:
                files = [{"rfilename": file} for file in repositories[name]]
                self.say(200, json.dumps({"id": name, "sha": COMMIT, "siblings": files}).encode())

        def say(self, status: int, body: bytes = b"", error: str = "") -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hash(body):x}"')
            if error:
                self.send_header("X-Error-Code", error)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_POST = answer

    with serving(Handler) as url:
        yield url
