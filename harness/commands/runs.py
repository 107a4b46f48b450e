"""Prints the results of `harness verify` and `harness show`."""

from collections.abc import Mapping
from math import ceil
from typing import Any

from harness.commands.output import print_facts, print_rows, readable
from harness.errors import UserError

KEY = 8  # digits of a digest that people see
PAGE = 40  # questions


def print_verified(report: Mapping[str, Any]) -> None:
    """Print the report of `harness.runs.verify`."""
    rows = []
    for number in report["numbers"]:
        state = "verified" if number["verified"] else "not verified"
        place = [number[name] for name in ("method", "seed", "fraction", "benchmark", "value")]
        rows.append([*place, state, _chain(number)])
    print_rows(("method", "seed", "at", "benchmark", "value", "", "rests on"), rows, title=report["run"])
    for problem in report["problems"]:
        print(readable(f"problem: {problem}"))
    if report["surroundings"]:
        print("Not as on this machine (where a run would recompute the steps):")
        for text in report["surroundings"]:
            print(readable(f"  {text}"))
    verified = sum(number["verified"] for number in report["numbers"])
    print(f"{verified} of {len(report['numbers'])} numbers verified; --json has every file and digest")


def _chain(number: dict[str, Any]) -> str:
    """Return the steps from the score back to the base model, each with the start of a digest."""
    links = [f"{each['step']} {_digest(each['files'])}" for each in number["rests_on"]]
    made = number["rests_on"][-1]["depends_on"] if number["rests_on"] else {}
    data = [f"{name} {made[name][:KEY]}" for name in ("prompts", "preferences") if name in made]
    model = [f"model {made['model']['weights'][:KEY]}"] if "weights" in made.get("model", {}) else []
    return " < ".join([*links, *data, *model])


def _digest(files: dict[str, str]) -> str:
    """Return the start of the digest of the weights, or of the step's first file."""
    chosen = [name for name in files if name.endswith(".safetensors")] or list(files)
    return files[chosen[0]][:KEY] if chosen else ""


def print_values(found: dict[str, Any], page: int | None) -> None:
    """Print the values of `harness.runs.show.values`, a page of them or all, with the score below."""
    methods, questions = found["methods"], found["questions"]
    pages = max(1, ceil(len(questions) / PAGE))
    if page is not None:
        if page > pages:
            raise UserError(f"--page {page}: there are {pages}")
        questions = questions[(page - 1) * PAGE : page * PAGE]
    rows = [[row["question"], *(row[name] for name in methods)] for row in questions]
    rows.append(["score", *(found["score"][name] for name in methods)])
    print_rows(("question", *methods), rows, title=found["benchmark"])
    if page is not None and pages > 1:
        print(f"page {page} of {pages}, {PAGE} questions per page: --page N")
    if found["left_out"]:
        print(f"{found['left_out']} questions have the same value for all methods")


def print_question(found: dict[str, Any]) -> None:
    """Print the question of `harness.runs.show.question`, with the answers, judgments and values of each arm."""
    print_facts({"question": found["question"] or {"id": "its file no longer exists"}})
    for arm in found["arms"]:
        print()
        facts: dict[str, Any] = {"value": arm["value"]}
        for kind in ("samples", "judgments"):
            for place, row in enumerate(arm[kind], 1):
                facts[f"{kind[:-1]} {place}"] = {name: value for name, value in row.items() if name != "id"}
        facts["files"] = {name: digest[:KEY] for name, digest in arm["files"].items()}
        print_facts({f"{arm['method']} seed {arm['seed']}": facts})
