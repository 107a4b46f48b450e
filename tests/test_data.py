"""Fetching benchmark files, from a file server on loopback."""

import functools
import hashlib
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from harness.data import DataFile, fetch, fetch_file, table
from harness.errors import UserError

CONTENT = b'{"question_id": 81}\n' * 9000


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *_arguments):
        pass

    def do_GET(self):
        if self.path == "/cut":
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT[:1000])
        else:
            super().do_GET()


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "question.jsonl").write_bytes(CONTENT)
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder)) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def entry(server, name="question.jsonl", content=CONTENT):
    return DataFile("mt_bench/question.jsonl", f"{server}/{name}", hashlib.sha256(content).hexdigest(), "MIT")


def test_a_good_file_is_fetched_once(server, tmp_path):
    target = fetch_file(entry(server), tmp_path / "data")
    assert target.read_bytes() == CONTENT
    before = target.stat().st_mtime_ns
    assert fetch_file(entry(server), tmp_path / "data").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("question.jsonl", b"another", "has sha256 .* not the pinned"),
        ("absent.jsonl", CONTENT, "404"),
        ("cut", CONTENT, "has sha256 .* not the pinned"),
    ],
)
def test_nothing_is_left_of_a_file_that_is_not_right(server, tmp_path, name, content, message):
    with pytest.raises(UserError, match=message):
        fetch_file(entry(server, name, content), tmp_path / "data")
    assert [path for path in (tmp_path / "data").rglob("*") if path.is_file()] == []


def test_no_server(tmp_path):
    with pytest.raises(UserError, match="can not be fetched"):
        fetch_file(entry("http://127.0.0.1:9"), tmp_path)


def test_unknown_benchmark(tmp_path):
    with pytest.raises(UserError, match="did you mean 'mt-bench'"):
        fetch("mtbench", tmp_path)


def test_pinned_hashes_are_those_of_the_real_files(data_dir):
    checked = 0
    for file in (file for files in table().values() for file in files):
        plain = data_dir / file.path
        if plain.exists():
            assert hashlib.sha256(plain.read_bytes()).hexdigest() == file.sha256, file.path
            checked += 1
    assert checked >= 4
