"""Fetching benchmark files, from a file server on loopback."""

import functools
import gzip
import hashlib
import json
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from harness.benchmarks.loading import data_files
from harness.errors import UserError
from harness.files.data_files import DataFile
from harness.files.downloads import fetch, fetch_file, status, table, verify

CONTENT = b'{"question_id": 81}\n' * 9000


class Handler(SimpleHTTPRequestHandler):
    """Answers of `server.script`, one a request, by (status, first byte sent, last, whether a range is honoured)."""

    def log_message(self, *_arguments):
        pass

    def do_GET(self):
        self.server.ranges.append(self.headers.get("Range"))
        if not self.server.script:
            return super().do_GET()
        status, sent, honours = self.server.script.pop(0)
        start = int(self.headers["Range"][6:-1]) if self.headers.get("Range") and honours else 0
        if status != 200:
            return self.send_error(status)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start:sent])


@pytest.fixture
def running(tmp_path, monkeypatch):
    monkeypatch.setattr("harness.files.downloads.WAIT", 0.0)
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "question.jsonl").write_bytes(CONTENT)
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder)) as running:
        running.script, running.ranges = [], []
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture
def server(running):
    return f"http://127.0.0.1:{running.server_port}"


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
    ],
)
def test_nothing_is_left_of_a_file_that_is_not_right(server, tmp_path, name, content, message):
    with pytest.raises(UserError, match=message):
        fetch_file(entry(server, name, content), tmp_path / "data")
    assert [path for path in (tmp_path / "data").rglob("*") if path.is_file()] == []


CUT, WHOLE = (200, 1000, True), (200, len(CONTENT), True)


@pytest.mark.parametrize(
    ("script", "ranges"),
    [
        ([CUT, WHOLE], [None, "bytes=1000-"]),
        ([CUT, (200, 5000, True), WHOLE], [None, "bytes=1000-", "bytes=5000-"]),
        ([CUT, (200, len(CONTENT), False)], [None, "bytes=1000-"]),  # a server that starts anew
        ([(429, 0, True), WHOLE], [None, None]),  # too many requests
        ([(503, 0, True), CUT, (500, 0, True), WHOLE], [None, None, "bytes=1000-", "bytes=1000-"]),
    ],
)
def test_a_cut_download_goes_on(running, server, tmp_path, script, ranges):
    running.script[:] = script
    target = fetch_file(entry(server), tmp_path / "data")
    assert target.read_bytes() == CONTENT and running.ranges == ranges
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_the_next_call_goes_on_where_the_last_gave_up(running, server, tmp_path):
    running.script[:] = [CUT] + [(500, 0, True)] * 3
    with pytest.raises(UserError, match="500"):
        fetch_file(entry(server), tmp_path / "data")
    running.script[:] = [WHOLE]
    assert fetch_file(entry(server), tmp_path / "data").read_bytes() == CONTENT
    assert running.ranges[-1] == "bytes=1000-"


def test_a_whole_part_with_other_bytes_is_thrown_away(running, server, tmp_path):
    part = tmp_path / "data" / "mt_bench" / ".question.jsonl.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * len(CONTENT))
    running.script[:] = [(416, 0, True)]
    with pytest.raises(UserError, match="not the pinned"):
        fetch_file(entry(server), tmp_path / "data")
    assert not part.exists()
    assert fetch_file(entry(server), tmp_path / "data").read_bytes() == CONTENT


def write_table(tmp_path, server, **changes):
    row = {"path": "mt_bench/question.jsonl", "url": f"{server}/question.jsonl", "licence": "MIT"}
    row |= {"sha256": hashlib.sha256(CONTENT).hexdigest()} | changes
    path = tmp_path / "table.yaml"
    path.write_text(json.dumps({"mt-bench": [row]}))
    return path


def test_verify(server, tmp_path):
    pinned, data = table(write_table(tmp_path, server)), tmp_path / "data"

    def status():
        (found,) = verify("mt-bench", data, pinned)
        return found["status"]

    assert status() == "missing"
    (target,) = fetch("mt-bench", data, pinned)
    assert status() == "ok"
    target.write_bytes(b"other")
    assert status() == "changed"
    target.unlink()
    target.with_name("question.jsonl.gz").write_bytes(gzip.compress(CONTENT))
    assert status() == "ok" and fetch("mt-bench", data, pinned) == [target.with_name("question.jsonl.gz")]
    assert verify(None, data, pinned)[0]["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    target.with_name("question.jsonl.gz").write_bytes(gzip.compress(CONTENT)[:-20])
    assert status() == "changed"


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"path": "../x"}, "leads out"), ({"path": "/x"}, "leads out"), ({"sha256": 3}, "sha256"), ({"more": 1}, "more")],
)
def test_faulty_tables(tmp_path, changes, said):
    with pytest.raises(UserError, match=said):
        table(write_table(tmp_path, "http://127.0.0.1:9", **changes))


def test_every_benchmark_with_files_has_licences(tmp_path):
    files = data_files()
    assert set(files) >= {"mt-bench", "alpaca-eval", "math", "gsm8k", "mmlu", "ifeval", "reward-bench"}
    assert all(file.licence for each in files.values() for file in each if isinstance(file, DataFile))
    with pytest.raises(UserError, match="not pinned"):
        verify("reward-bench", tmp_path, files)


def test_no_server(tmp_path):
    with pytest.raises(UserError, match="cannot be fetched"):
        fetch_file(entry("http://127.0.0.1:9"), tmp_path)


def test_unknown_benchmark(tmp_path):
    with pytest.raises(UserError, match="did you mean 'mt-bench'"):
        fetch("mtbench", tmp_path, data_files())


def test_pinned_hashes_are_those_of_the_real_files(data_dir):
    checked = 0
    for file in (file for files in data_files().values() for file in files if isinstance(file, DataFile)):
        found, _ = status(file, data_dir)
        assert found in ("ok", "missing"), file.path
        checked += found == "ok"
    assert checked >= 8
