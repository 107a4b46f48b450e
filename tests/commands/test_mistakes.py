"""Mistakes of users: one line and exit code 2, before PyTorch is imported, which takes longer than a person waits."""

import json
import os
import subprocess
import sys

import pytest

MISTAKES = {
    "run --method nope": "unknown method 'nope'",
    "run --method ssoo": "did you mean 'sso'",
    "run --method dpo --seeds 0": "must be at least 1",
    "run --method dpo --budget x": "budget 'x' is not understood",
    "run --method dpo --preferences nope.jsonl": "no file at nope.jsonl",
    "run --method dpo --preferences bad.jsonl": "bad.jsonl:1:",
    "run --method dpo --preferences broken.jsonl": "broken.jsonl:1:",
    "run --method dpo --set dpo.bta=1": "did you mean 'beta'",
    "run --method dpo --set dpo.beta=x": "'beta'",
    "run --method dpo --set sso.beta=1": "options for 'sso'",
    "run --method base --model ./nowhere": "no model at './nowhere'",
    "run --method base --benchmark nope": "unknown benchmark 'nope'",
    "run --method base --benchmark math --data-dir ./nowhere": "no math500.jsonl in nowhere/math",
    "run --method base --benchmark mmlu --data-dir ./nowhere": "no mmlu.zip in nowhere/mmlu",
    "run --method base --judge-engine ./nowhere": "no model at './nowhere'",
    "run --method base --judge-model x": "needs a key in OPENAI_API_KEY",
    "run --method base --name ../x": "name '../x' is not allowed",
    "run --method base --config nope.yaml": "no configuration file at nope.yaml",
    "run --method base --config broken.yaml": "broken.yaml",
    "run --method base --config unknown.yaml": "did you mean",
    "run --method base --engine vllm": "vLLM is not installed",
    "run --method base --temperature -1": "must be at least 0",
    "run --method base --tune 1": "tune must be 0 or at least 2",
    "run --method base --report-to nope": "unknown report_to 'nope'",
    "run --method base --date tomorrow": "tomorrow",
    "run --method base --judge-set reasoning_effort=low": "judge",
    "eval ./nowhere": "no model at './nowhere'",
    "estimate nope": "unknown preset 'nope'",
    "list nope": "unknown method or benchmark 'nope'",
    "table nope": "nope is not a run folder",
    "table nope --format x": "x",
    "report nope": "nope is not a run folder",
    "show nope math": "nope is not a run folder",
    "verify nope": "nope is not a run folder",
    "check nope --against nope": "nope is not a run folder",
    "power nope": "nope is not a run folder",
    "rejudge nope --judge-model x": "nope is not a run folder",
    "leaderboard --results nope": "nope",
    "export model nope --method sso -o x": "nope is not a run folder",
    "export preferences nope --method sso -o x": "nope is not a run folder",
    "export scores nope -o x": "nope is not a run folder",
    "data fetch nope": "unknown benchmark 'nope'",
    "score math --responses nope.jsonl": "nope.jsonl",
    "score mt-bench --judgments nope.jsonl": "nope.jsonl",
    "score alpaca-eval --annotations nope.json": "nope.json",
    "bench train --shape nope": "nope",
}
ALL = """
import contextlib, io, json, sys
from harness import cli
found = {}
for words in json.load(sys.stdin):
    sys.argv = ["harness", *words.split()]
    error = io.StringIO()
    with contextlib.redirect_stderr(error), contextlib.redirect_stdout(error):
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = end.code
    found[words] = code, error.getvalue(), "torch" in sys.modules
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    place = tmp_path_factory.mktemp("mistakes")
    (place / "bad.jsonl").write_text('{"prompt": 3}\n')
    (place / "broken.jsonl").write_text('{"prompt": "a"\n')
    (place / "broken.yaml").write_text("seeds: [1\n")
    (place / "unknown.yaml").write_text("sedes: 3\n")
    words = json.dumps(list(MISTAKES))
    environment = {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"}
    command = [sys.executable, "-c", ALL]
    done = subprocess.run(command, input=words, cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_one_line_and_soon_told(found, words):
    code, text, with_torch = found[words]
    assert code == 2, text
    assert MISTAKES[words] in text
    assert "Traceback" not in text and len(text.strip().splitlines()) == 1
    assert not with_torch
