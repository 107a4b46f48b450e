"""Methods on replies without a partner, from files."""

import json

import pytest
from command_line import harness

QUESTIONS = ["What is 3 plus 4?", "Name a colour.", "What is 2 plus 2?", "Name an animal.", "Say hello.", "Say no."]
ROWS = [
    {"prompt": question, "completion": f"{answer} it is.", "label": answer != "No"}
    for question in QUESTIONS
    for answer in ("Seven", "Red", "No", "Four")
]
OPTIONS = ("--budget", "2e9", "--benchmark", "math", "--limit", "2", "--name", "x")
SMALL = ("batch_size=4", "micro_batch_size=4")


def run(folder, methods: str, rows: list[dict], *settings: str, code: int = 0) -> str:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [word for setting in settings for word in ("--set", setting)]
    return harness("run", "--method", methods, *OPTIONS, "--preferences", "rows.jsonl", *words, cwd=folder, code=code)


def test_kto_and_demonstrations(testbed_model_dir, tmp_path):
    settings = [f"{method}.{setting}" for method in ("kto", "sft") for setting in SMALL]
    table = run(tmp_path, "kto,sft", ROWS, "sft.data=demonstrations", *settings)
    assert "| labelled replies" in table and "| demonstrations" in table
    for method, role in (("kto", {"reference", "train", "generate"}), ("sft", {"train", "generate"})):
        arm = tmp_path / f"results/runs/x/arms/{method}-seed0"
        ledger = json.loads((arm / "ledger.json").read_text())
        assert set(ledger["roles"]) == role and ledger["total"]["flops"] <= 2e9
        assert ledger["roles"]["train"]["updates"] > 1
    example = json.loads(
        (tmp_path / "results/runs/x/arms/kto-seed0/preferences/policy.jsonl").read_text().split("\n")[0]
    )
    assert len(example["targets"]) == len(example["sequences"]) == 2
    history = (tmp_path / "results/runs/x/arms/kto-seed0/training/policy.jsonl").read_text().splitlines()
    of_kto = (tmp_path / "results/runs/x/arms/kto-seed0/health/policy.json").read_text()
    assert "chosen_probability" not in json.loads(of_kto)
    assert {"loss", "divergence", "margin", "accuracy"} <= json.loads(history[0]).keys()
    health = json.loads((tmp_path / "results/runs/x/arms/sft-seed0/health/policy.json").read_text())
    assert health["discarded"]["labelled as a bad reply"] > 0


@pytest.mark.parametrize(
    ("methods", "rows", "message"),
    [
        ("kto,dpo", ROWS, 'has no "chosen" and "rejected", which labelled pairs need'),
        ("kto", [{"prompt": "Q", "completion": "A"}], 'has a completion without a "label"'),
    ],
)
def test_rows_that_a_method_cannot_use(testbed_model_dir, tmp_path, methods, rows, message):
    assert f"rows.jsonl:1: {message}" in run(tmp_path, methods, rows, code=2)
