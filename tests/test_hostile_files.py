"""Hostile files, each with its harmless outcome: names in tables and terminals, downloads; what no module may call."""

import ast
import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml
from test_openai_judge import KEY, completion, endpoint, key, requests  # noqa: F401 (key is a fixture)

from harness import data, plain_yaml
from harness.budget import Ledger
from harness.commands import output
from harness.comparison import ResultRow, build
from harness.errors import UserError
from harness.tables import to_markdown
from harness.tables.markdown import escape

ROOT = Path(__file__).resolve().parent.parent


# Tables and terminals


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a | b", "a \\| b"),
        ("a \\| b", "a \\\\\\| b"),
        ("a\n| b\r\n## c", "a \\| b ## c"),
        ("<script>alert(1)</script>", "\\<script>alert(1)\\</script>"),
        ("<!-- hidden", "\\<!-- hidden"),
        ("[text](http://host)", "[text]\\(http://host)"),
        ("![x](http://host/pixel.png)", "![x]\\(http://host/pixel.png)"),
        ("\x1b[31mred\x1b[0m \x9b2J", "[31mred [0m 2J"),
        ("gpt\u202e4-tpg\u200b", "gpt 4-tpg"),
        ("p < 0.0001 [1.0, 2.0] (x) 3.5 *", "p < 0.0001 [1.0, 2.0] (x) 3.5 *"),
    ],
)
def test_a_name_in_a_table(text, shown):
    """A judge's or a model's name can not end a cell, begin HTML, make a link or steer a terminal."""
    assert escape(text) == shown
    row = ResultRow("base", text, {}, {0: Ledger().as_dict()}, {0: {"training": 0.0, "scoring": 0.0}})
    lines = to_markdown(build([row], title=text)).splitlines()
    assert lines[0] == f"## {shown}" and lines[4].startswith(f"| base   | {shown} ")


def test_texts_on_a_terminal(capsys):
    """Markup of rich, links and escapes in what files and endpoints say are shown, not obeyed."""
    hostile = "[red]x[/red] [link=http://host]y[/link] \x1b[31mz\x9b\u202e"
    output.print_rows((hostile, "n"), [(hostile, 1)], title=hostile)
    output.print_facts({hostile: hostile, "deeper" + hostile: {hostile: 1}})
    output.print_json({hostile: hostile})
    printed = capsys.readouterr().out
    assert not set("\x1b\x9b\u202e") & set(printed)
    assert printed.count("[red]x[/red] [link=http://host]y[/link]") == 9
    found = printed[printed.index('{\n  "') :]
    assert json.loads(found) == {hostile: hostile}


def test_numbers_that_json_has_not():
    with pytest.raises(ValueError, match="not JSON compliant"):
        output.print_json({"value": float("nan")})


# Downloads


@pytest.fixture
def server(monkeypatch):
    """Answers with what a test puts into `server.answers`: path -> (status, headers, body)."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, headers, body = self.server.answers[self.path]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments):
            pass

    monkeypatch.setattr(data, "WAIT", 0.0)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.answers = {}
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def pinned(server, content=b"content", **changes):
    url = f"http://127.0.0.1:{server.server_port}/file"
    return data.DataFile("sub/file.jsonl", url, hashlib.sha256(content).hexdigest(), "MIT", **changes)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"path": "../x"}, "leads out"),
        ({"path": "/etc/x"}, "leads out"),
        ({"path": "a/../../x"}, "leads out"),
        ({"url": "file:///etc/passwd"}, "no address of a web server"),
        ({"url": "ftp://host/x"}, "no address of a web server"),
    ],
)
def test_a_table_of_files_that_leads_elsewhere(row, message, tmp_path):
    table = tmp_path / "table.yaml"
    harmless = {"path": "a", "url": "https://h/a", "sha256": "0", "licence": "MIT"}
    table.write_text(yaml.safe_dump({"x": [harmless | row]}))
    with pytest.raises(UserError, match=message):
        data.table(table)


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/x", "gopher://x"])
def test_a_download_that_is_sent_elsewhere(server, tmp_path, target):
    """A redirect to this machine's files is not followed."""
    server.answers["/file"] = (302, {"Location": target, "Content-Length": "0"}, b"")
    with pytest.raises(UserError, match="can not be fetched"):
        data.fetch_file(pinned(server), tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("headers", "body", "message"),
    [
        ({"Content-Length": "7"}, b"another", "not the pinned"),
        ({}, b"content and more", "not the pinned"),
        ({}, b"x" * 5000, "sends more than"),
    ],
)
def test_a_download_of_something_else(server, tmp_path, monkeypatch, headers, body, message):
    """Other content, more than announced, no end: nothing is left."""
    monkeypatch.setattr(data, "MOST", 4000)
    monkeypatch.setattr(data, "BLOCK", 1000)
    server.answers["/file"] = (200, headers, body)
    with pytest.raises(UserError, match=message):
        data.fetch_file(pinned(server), tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_download_with_more_bytes_than_announced(server, tmp_path):
    server.answers["/file"] = (200, {"Content-Length": "7"}, b"content, and more")
    assert data.fetch_file(pinned(server), tmp_path).read_bytes() == b"content"


def test_a_link_where_a_download_is_to_be(server, tmp_path):
    """The link is replaced, and what it points at stays."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "data/sub").mkdir(parents=True)
    (tmp_path / "data/sub/file.jsonl").symlink_to(victim)
    server.answers["/file"] = (200, {"Content-Length": "7"}, b"content")
    data.fetch_file(pinned(server), tmp_path / "data")
    assert victim.read_text() == "precious"


# The source itself

FORBIDDEN = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load"),
    *("yaml.full_load", "torch.load", "np.load", "numpy.load", "joblib.load", "pickle.load", "pickle.loads"),
    *("marshal.loads", "shelve.open", "dill.load", "dill.loads", "cloudpickle.loads", "runpy.run_path"),
}
ALLOWED = {("harness/plain_yaml.py", "yaml.load")}  # by a SafeConstructor


def test_no_source_line_runs_data():
    """No pickle, no evaluation of text, no shell, in any module."""
    assert issubclass(plain_yaml._Loader, yaml.constructor.SafeConstructor)
    assert not issubclass(plain_yaml._Loader, yaml.constructor.FullConstructor)  # which is a SafeConstructor, too
    found, files = set(), 0
    for path in sorted(each for name in ("harness", "sso", "baselines") for each in (ROOT / name).rglob("*.py")):
        files += 1
        where = str(path.relative_to(ROOT))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                unsafe = {"shell": "True", "allow_pickle": "True", "trust_remote_code": "True", "weights_only": "False"}
                chosen = {each.arg: ast.unparse(each.value) for each in node.keywords}
                if called in FORBIDDEN or any(chosen.get(name) == value for name, value in unsafe.items()):
                    found.add((where, called))
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                found |= {(where, name) for name in names & {"pickle", "marshal", "shelve", "dill", "joblib"}}
    assert found <= ALLOWED and files > 80
