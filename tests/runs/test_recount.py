"""What the ledgers say, counted once more from the files of a run by code of its own: JSON lines and nothing else."""

import json
from pathlib import Path

import pytest
from command_line import harness
from small_classifier import save_classifier

METHODS = (
    *("sso", "sso-v1", "pbaa", "dpo", "ipo", "self-rewarding", "sft", "kto"),
    *("best-of-n", "online-dpo", "rloo"),
)
SETTINGS = {
    "pbaa.principles": "self",
    "self-rewarding.judge_prompt": "weighted",
    "sso-v1.filter": "true",
    "sso-v1.iterations": "1",
    **{f"sso-v1.{name}": "4" for name in ("batch_size", "micro_batch_size")},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory, testbed_model_dir) -> Path:
    folder = tmp_path_factory.mktemp("recount")
    settings = [word for name, value in SETTINGS.items() for word in ("--set", f"{name}={value}")]
    rewards = save_classifier(testbed_model_dir, folder / "rewards")
    settings += ["--set", f"best-of-n.reward_model={rewards}", "--set", "online-dpo.rounds=2", "--set", "rloo.rounds=2"]
    options = ("--budget", "1.2e11", "--benchmark", "math", "--limit", "3", "--name", "x")
    harness("run", "--method", ",".join(METHODS), *options, *settings, cwd=folder)
    return folder / "results/runs/x"


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for file in sorted(folder.glob("*.jsonl")) for line in file.read_text().splitlines()]


def shared(pairs: list[tuple[list[int], list[int]]]) -> int:
    """Tokens of these sequences, equal prompts and equal completions of a prompt counted once."""
    prompts = {tuple(prompt) for prompt, _ in pairs}
    completions = {(tuple(prompt), tuple(completion)) for prompt, completion in pairs}
    return sum(map(len, prompts)) + sum(len(completion) for _, completion in completions)


@pytest.mark.parametrize("method", METHODS)
def test_tokens_are_those_in_the_files(run, method):
    arm = run / f"arms/{method}-seed0"
    roles = json.loads((arm / "ledger.json").read_text())["roles"]
    asked = lines(arm / "asked")
    for role, spent in roles.items():
        own = [row for row in asked if row["role"] == role]
        sampled, read = ([row for row in own if name in row] for name in ("completion_ids", "read_ids"))
        if role in ("train", "reference"):
            examples = [
                [(each["prompt_ids"], each["completion_ids"]) for each in row["sequences"]]
                for row in lines(arm / "preferences")
            ]
            tokens = sum(map(shared, examples))
            assert spent["trained_tokens" if role == "train" else "prompt_tokens"] == tokens, role
            continue
        assert spent["calls"] == len(own), role
        assert spent["generated_tokens"] == sum(len(row["completion_ids"]) for row in sampled), role
        given = sum(len(row["prompt_ids"]) for row in sampled)
        assert spent["prompt_tokens"] == given + shared([(row["prompt_ids"], row["read_ids"]) for row in read]), role
    assert {row["role"] for row in asked} == set(roles) - {"train", "reference"} - (set() if asked else {"generate"})


def test_every_role_is_there(run):
    roles = {role for file in run.glob("arms/*/ledger.json") for role in json.loads(file.read_text())["roles"]}
    assert roles == {"generate", "principles", "judge", "filter", "reference", "reward", "train"}


@pytest.mark.parametrize("method", METHODS)
def test_less_than_a_tenth_of_each_role_is_wasted(run, method):
    roles = json.loads((run / f"arms/{method}-seed0/ledger.json").read_text())["roles"]
    for role, spent in roles.items():
        assert 0 <= spent["wasted_flops"] <= 0.1 * spent["flops"], role


def test_what_was_discarded_is_kept(run):
    """Every completion that an example was made of is among those that were asked for, and more are."""
    arm = run / "arms/pbaa-seed0"
    made = {tuple(each["completion_ids"]) for row in lines(arm / "preferences") for each in row["sequences"]}
    sampled = {tuple(row["completion_ids"]) for row in lines(arm / "asked") if row["role"] == "generate"}
    assert made < sampled
    ledger = json.loads((arm / "ledger.json").read_text())
    assert ledger["roles"]["generate"]["discarded"] > 0
    assert ledger["epochs"]["prompts"] > 0
