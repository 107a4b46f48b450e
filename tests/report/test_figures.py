"""Figures as files: well-formed, with a key, and nothing of a name is markup."""

import json
from xml.etree import ElementTree

import pytest
from forged_run import forge

from harness.commands.report import write_figure
from harness.errors import UserError

VALUES = {
    "mt-bench": {"base": [[3.0, 4.0]] * 2, "sso": [[6.0, 7.0], [5.0, 7.0]], "dpo": [[5.0, 6.0]] * 2},
    "math": {"base": [[0.0, 100.0]] * 2, "sso": [[100.0, 100.0]] * 2, "dpo": [[0.0, 100.0]] * 2},
}


def texts(file) -> list[str]:
    return [text for each in ElementTree.parse(file).iter() if (text := (each.text or "").strip())]


def at(run, cap):
    """The run as if it had another cap, and had spent nearly all of it."""
    for file in (run / "arms").glob("*/ledger.json"):
        ledger = json.loads(file.read_text())
        if ledger["total"]["flops"]:
            file.write_text(json.dumps(ledger | {"cap_flops": cap}))
    return run


def test_scores_under_several_budgets(tmp_path):
    runs = [at(forge(tmp_path / f"run-{cap}", VALUES), cap) for cap in (5e11, 1e12, 2e12)]
    said = texts(write_figure("budgets", runs, tmp_path / "budgets.svg"))
    assert {"5e+11", "1e+12", "2e+12", "sso", "dpo"} <= set(said) and "base" not in said  # the line across
    assert sum(text == "cap, FLOPs" for text in said) == 2
    content = (tmp_path / "budgets.svg").read_text()
    assert "Made by: harness figure budgets" in content
    assert "var(" not in content and "light-dark" not in content


def test_accuracy_of_pairs_and_hostile_names(tmp_path):
    run = forge(tmp_path / "run", {"math": VALUES["math"] | {"a&var(--text)b=dpo": [[0.0, 100.0]] * 2}})
    said = texts(write_figure("pairs", [run], tmp_path / "pairs.svg"))
    assert "judge prefers the chosen, %" in said and any(text.startswith("a&") for text in said)


@pytest.mark.parametrize(
    ("kind", "number", "message"),
    [("pears", 1, "did you mean 'pairs'"), ("pairs", 2, "this figure shows one run: give one, not 2")],
)
def test_what_can_not_be_drawn(tmp_path, kind, number, message):
    run = forge(tmp_path / "run", VALUES)
    with pytest.raises(UserError, match=message):
        write_figure(kind, number * [run], tmp_path / "figure.svg")


def test_runs_of_other_benchmarks_are_refused(tmp_path):
    runs = [forge(tmp_path / "a", VALUES), forge(tmp_path / "b", {"math": VALUES["math"]})]
    with pytest.raises(UserError, match="has different benchmarks"):
        write_figure("budgets", runs, tmp_path / "figure.svg")
