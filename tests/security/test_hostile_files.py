"""Hostile files, each with its harmless outcome: names in tables and terminals, downloads; what no module may call."""

import ast
import hashlib
import json
import re
import resource
import shutil
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
import yaml
from paths import ROOT

from harness.budget import Ledger
from harness.commands import output
from harness.engines.transformers import TransformersEngine
from harness.errors import UserError
from harness.experiment.options import Experiment
from harness.files import downloads as data
from harness.files import plain_yaml
from harness.models.weights import check_files
from harness.runs.inputs import check_inputs
from harness.stages.plan import token_counter
from harness.tables import to_markdown
from harness.tables.build import build
from harness.tables.markdown import escape
from harness.tables.schema import ResultRow
from harness.types import Chat

pytestmark = pytest.mark.usefixtures("judge_key")

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
    row = ResultRow("base", text, {}, {0: Ledger()}, {0: {"training": 0.0, "scoring": 0.0}})
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
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
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
        ({"url": "file:///etc/passwd"}, "not the address of a web server"),
        ({"url": "ftp://host/x"}, "not the address of a web server"),
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
    with pytest.raises(UserError, match="cannot be fetched"):
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
    monkeypatch.setattr(data, "LARGEST", 4000)
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


# Files of models: nothing may ask for more than its weights hold


@pytest.fixture
def model(tiny_model_dir, tmp_path):
    """A folder of a model that a test may spoil."""
    return shutil.copytree(tiny_model_dir, tmp_path / "model")


def cheaply(call):
    """What a call told, which ended soon and took little memory."""
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError) as caught:
        call()
    assert time.perf_counter() - begin < 30  # on a busy machine; alone it takes less than 3
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB
    assert "\n" not in str(caught.value)
    return str(caught.value)


def spoil(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


HUGE = {
    "layers": {"num_hidden_layers": 10**6},
    "layers, ten times": {"num_hidden_layers": 10**9},
    "hidden": {"hidden_size": 10**6},
    "vocabulary": {"vocab_size": 10**9},
    "intermediate": {"intermediate_size": 10**7},
    "heads": {"num_attention_heads": 10**9},
    "head_dim": {"head_dim": 10**6},
    "labels": {"num_labels": 10**9},
    "experts": {"model_type": "mixtral", "num_local_experts": 10**6, "num_experts_per_tok": 2},
    "experts of another kind": {"model_type": "qwen2_moe", "num_experts": 10**5, "moe_intermediate_size": 10**5},
    "layers of a part": {"text_config": {"num_hidden_layers": 10**8}, "vision_config": {"depth": 10**8}},
    "vocabulary of a part": {"model_type": "gemma3", "text_config": {"vocab_size": 10**9}},
    "digits": {"num_hidden_layers": 10**4000},
}


@pytest.mark.parametrize("changes", HUGE.values(), ids=HUGE)
def test_a_config_that_asks_for_far_more_than_its_weights(model, changes):
    spoil(model / "config.json", **changes)
    told = cheaply(lambda: TransformersEngine.load(model, device="cpu"))
    assert "config.json" in told and ("weights" in told or "than any model has" in told or "are read" in told)


def test_a_config_of_many_bytes(model):
    (model / "config.json").write_text('{"a": "' + "x" * 9_000_000 + '"}')
    assert "config.json has 9,000,009 bytes" in cheaply(lambda: TransformersEngine.load(model, device="cpu"))


def nested(levels):
    step = {"type": "Lowercase"}
    for _ in range(levels):
        step = {"type": "Sequence", "normalizers": [step]}
    return step


def added(number, content="<|x|>"):
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": content, "special": True, **flags}


def replacing(text, content):
    return {"type": "Replace", "pattern": {"String": text}, "content": content}


def splitting(pattern):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


FIXED = {"strategy": {"Fixed": 10**12}, "direction": "Right", "pad_id": 0, "pad_type_id": 0}
TOKENIZERS = {
    "nested steps": ({"normalizer": nested(200)}, "nested more than 64 levels"),
    "steps that double a text 40 times": (
        {"normalizer": {"type": "Sequence", "normalizers": [replacing("a", "aa")] * 40}},
        "more than 64 characters from one in its normalizer",
    ),
    "a step that writes much": ({"normalizer": replacing("a", "b" * 10**6)}, "more than 64 characters from one"),
    "much before each text": ({"normalizer": {"type": "Prepend", "prepend": "b" * 10**6}}, "more than 64 characters"),
    "a decoder that writes much": ({"decoder": replacing("a", "b" * 10**6)}, "from one in its decoder"),
    "a pattern that never ends": ({"pre_tokenizer": splitting("(a+)+$")}, "does not end on short texts"),
    "a pattern of its own letters": ({"pre_tokenizer": splitting("(q|qq)+w")}, "does not end on short texts"),
    "a long pattern": ({"pre_tokenizer": splitting("a" * 5000)}, "a pattern of 5,000 characters"),
    "a token far away": ({"added_tokens": [added(10**9)]}, r"up to number 1,000,000,000 \('<\|x\|>'\), .* 261 rows"),
    "many added tokens": (
        {"added_tokens": [added(number, f"<|{number}|>") for number in range(20_000)]},
        "up to number 19,999 .* 261 rows",
    ),
    "a large vocabulary": (
        {"model": {"type": "BPE", "merges": [], "vocab": {f"t{number}": number for number in range(100_000)}}},
        "up to number 99,999 .* 261 rows",
    ),
    "a text that is padded": ({"padding": FIXED}, "pads every text to 1000000000000 tokens"),
    "a large file": ({"model": {"type": "BPE", "merges": ["x" * 5_000_000], "vocab": {}}}, "tokenizer.json has 5,"),
}


@pytest.mark.parametrize(("changes", "message"), TOKENIZERS.values(), ids=TOKENIZERS)
def test_a_tokenizer_that_asks_for_far_more_than_its_model(model, changes, message):
    spoil(model / "tokenizer.json", **changes)
    assert re.search(message, cheaply(lambda: TransformersEngine.load(model, device="cpu")))
    experiment = Experiment(model=str(model), methods=("dpo",))
    assert re.search(message, cheaply(lambda: check_inputs(experiment)))  # before its prompts are counted


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("tokenizer_config.json", {"added_tokens_decoder": {str(10**9): added(10**9)}}),
        ("added_tokens.json", {"<|x|>": 10**9}),
    ],
)
def test_added_tokens_in_other_files(model, file, changes):
    content = json.loads((model / file).read_text()) if (model / file).exists() else {}
    (model / file).write_text(json.dumps(content | changes))
    assert "up to number 1,000,000,000" in cheaply(lambda: TransformersEngine.load(model, device="cpu"))


def test_padding_that_a_tokenizer_carries_is_not_counted(model):
    """A file may hold the settings of another use."""
    chat = Chat(({"role": "user", "content": "Why?"},))
    before = token_counter(model, "model", None)[0](chat)
    padding = {"direction": "Right", "pad_id": 0, "pad_type_id": 0, "pad_token": "<|pad|>", "pad_to_multiple_of": None}
    truncation = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    spoil(model / "tokenizer.json", padding=padding | {"strategy": {"Fixed": 900}}, truncation=truncation)
    assert token_counter(model, "model", None)[0](chat) == before
    assert len(TransformersEngine.load(model, device="cpu").encode_chat(chat)) == before


def test_what_real_tokenizers_hold_is_read(model):
    """Llama 3's pattern, and the steps of a SentencePiece tokenizer."""
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+"
    )
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    steps = [{"type": "Prepend", "prepend": "▁"}, replacing(" ", "▁")]
    spoil(
        model / "tokenizer.json",
        pre_tokenizer={"type": "Sequence", "pretokenizers": [splitting(pattern), level]},
        normalizer={"type": "Sequence", "normalizers": steps},
    )
    check_files(model)


# The source itself

FORBIDDEN = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load"),
    *("yaml.full_load", "torch.load", "np.load", "numpy.load", "joblib.load", "pickle.load", "pickle.loads"),
    *("marshal.loads", "shelve.open", "dill.load", "dill.loads", "cloudpickle.loads", "runpy.run_path"),
}
ALLOWED = {
    ("harness/files/plain_yaml.py", "yaml.load"),  # by a SafeConstructor
    ("harness/files/code_files.py", "compile"),  # of methods and benchmarks that the user names as FILE.py:CLASS
    ("harness/files/code_files.py", "exec"),
}


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
