"""IFEval (Zhou et al. 2023, arXiv:2311.07911): instructions that a program can check, by lm-eval's checkers.

Strict: the response as it is. Loose: also without its first line, its last line, or its asterisks. Both are reported as
the share of prompts whose instructions are all followed, and as the share of instructions.
"""

import sys
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

from harness.benchmarks import files
from harness.benchmarks.base import NoOptions, Policy, Questions, Score, Settings
from harness.benchmarks.ifeval_checks import Checker, check_resources, find_model
from harness.engines.base import Sampling
from harness.errors import UserError
from harness.progress import Advance
from harness.thoughts import MARKS, Marks, counted, split_thought

MAX_NEW_TOKENS = 1280
SPLITTER = "sentence splitter"  # the file of nltk's trained model
ENGLISH = "en:"  # M-IFEval puts the language before an instruction id


def score_responses(
    path: Path,
    *,
    items: bool = False,
    data_dir: Path | None = None,
    advance: Advance | None = None,
    marks: Marks = MARKS,
) -> dict:
    """Verdicts on responses that exist already.

    Args:
        path: rows with `prompt` and `response`, and perhaps `instruction_id_list` and `kwargs`, as upstream writes them
            before and after grading; JSONL or a JSON list, plain or .gz.
        items: return the verdicts of each row too.
        data_dir: a data folder with ifeval/input_data.jsonl, where rows without ids or arguments are looked up by
            their prompt (by `key` when they have none).
        marks: of thoughts, which are taken off before a response is graded.

    Returns:
        prompt_strict, instruction_strict, prompt_loose, instruction_loose (percent), n (prompts that were graded),
        instructions (in them), missing (rows without a response, or whose prompt is not in the input data: in no
        number), empty (responses without text: they follow nothing), duplicates (rows whose prompt came before: all
        count), unchecked (instructions whose check did not come to an end: not followed), groups, and the tools that
        the verdicts depend on; with items "items": [{"row" (from 1), "key" where the row has one,
        "instruction_id_list", "strict", "loose"}], where the verdicts of a missing row are None.

    Raises:
        UserError: naming file, line and field.
    """
    located = files.read_located_rows(path, nan_is_absent=("kwargs", "key"))
    rows = [_row(where, row) for where, row in located]
    places = [where for where, _ in located]
    _look_up(list(zip(places, rows, strict=True)), data_dir)
    _warn(data_dir)
    splits = []
    with Checker(find_model(data_dir)) as checker:
        for where, row in zip(places, rows, strict=True):
            if row["response"] is not None:
                splits.append(split_thought(row["response"], marks))
                row["response"] = splits[-1].answer
            if row["kwargs"] is not None and row["response"] is not None:
                row.update(grade(checker, row, row["response"], where))
            if advance:
                advance(1)
        tools = checker.tools()
    graded = [row for row in rows if "strict" in row]
    result = {
        **accuracies(graded),
        "n": len(graded),
        "instructions": sum(len(row["strict"]) for row in graded),
        "missing": len(rows) - len(graded),
        "empty": sum(not row["response"].strip() for row in graded),
        "duplicates": len(rows) - len({row["prompt"] or row["key"] for row in rows}),
        "unchecked": sum(row["unchecked"] for row in graded),
        **counted(splits),
        "groups": group_accuracies(graded),
        **tools,
    }
    if items:
        result["items"] = [_shown(number, row) for number, row in enumerate(rows, 1)]
    return result


def grade(checker: Checker, item: dict, response: str, where: str) -> dict:
    """{"strict", "loose": a verdict for each instruction, "unchecked": instructions whose check did not end}."""
    strict, loose, unchecked = [], [], 0
    for instruction_id, arguments in zip(item["instruction_id_list"], item["kwargs"], strict=True):
        try:
            verdicts = checker.check(instruction_id, arguments, item["prompt"], response)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        unchecked += verdicts is None
        strict.append(bool(verdicts and verdicts[0]))
        loose.append(bool(verdicts and verdicts[1]))
    return {"strict": strict, "loose": loose, "unchecked": unchecked}


def accuracies(graded: Sequence[dict]) -> dict[str, float | None]:
    """The four accuracies in percent, of rows with "strict" and "loose"; None where there are no rows."""
    result = {}
    for kind in ("strict", "loose"):
        result[f"prompt_{kind}"] = _percent([all(row[kind]) for row in graded])
        result[f"instruction_{kind}"] = _percent([verdict for row in graded for verdict in row[kind]])
    return result


def group_accuracies(graded: Sequence[dict]) -> dict[str, dict]:
    """By group of instructions (what stands before the colon of an id): their number, and the shares in percent."""
    groups = defaultdict(list)
    for row in graded:
        for instruction_id, *verdicts in zip(row["instruction_id_list"], row["strict"], row["loose"], strict=True):
            groups[instruction_id.partition(":")[0]].append(verdicts)
    return {
        name: {
            "instructions": len(groups[name]),
            "strict": _percent([strict for strict, _ in groups[name]]),
            "loose": _percent([loose for _, loose in groups[name]]),
        }
        for name in sorted(groups)
    }


def _percent(verdicts: Sequence[bool]) -> float | None:
    return 100 * fmean(verdicts) if verdicts else None


def _row(where: str, row: dict) -> dict:
    """A row of a file of responses, with the prefixes of M-IFEval taken away; what it has not is None.

    Raises:
        UserError: for a field of another type.
    """
    if "response" not in row:
        raise UserError(f"{where}: has no field 'response'")
    prompt, response, key = (row.get(name) for name in ("prompt", "response", "key"))
    ids, arguments = row.get("instruction_id_list"), row.get("kwargs")
    for name, value, kinds in (
        ("prompt", prompt, (str,)),
        ("response", response, (str,)),
        ("key", key if prompt is None else None, (str, int)),
        ("instruction_id_list", ids, (list,)),
        ("kwargs", arguments, (list,)),
    ):
        if value is not None and type(value) not in kinds:
            raise UserError(f"{where}: field {name!r} must be of type {kinds[0].__name__}, not {value!r:.60}")
    if prompt is None and key is None:
        raise UserError(f"{where}: has neither 'prompt' nor 'key'")
    if ids is not None:
        if not ids or not all(type(each) is str for each in ids):
            raise UserError(f"{where}: field 'instruction_id_list' must hold texts, not {ids!r:.60}")
        ids = [each.removeprefix(ENGLISH) for each in ids]
    if arguments is not None:
        arguments = [{} if each is None else each for each in arguments]
        if ids is None or len(arguments) != len(ids) or not all(type(each) is dict for each in arguments):
            raise UserError(f"{where}: field 'kwargs' must hold one object for each of instruction_id_list")
        arguments = [{name: _whole(value) for name, value in each.items()} for each in arguments]
    return {"prompt": prompt, "key": key, "response": response, "instruction_id_list": ids, "kwargs": arguments}


def _whole(value: Any) -> Any:
    """3 for 3.0, which tools write where some rows have no number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _look_up(located: Sequence[tuple[str, dict]], data_dir: Path | None) -> None:
    """Gives rows that lack them their instruction ids and arguments, where the input data have their prompt."""
    lacking = [(where, row) for where, row in located if row["kwargs"] is None]
    if not lacking:
        return
    if data_dir is None:
        raise UserError(
            f"{lacking[0][0]}: has no instruction_id_list and kwargs, so its prompt must be looked up: give --data-dir "
            "with ifeval/input_data.jsonl in it (harness data fetch ifeval)"
        )
    questions = _load(data_dir)
    by_key = {question["id"]: question for question in questions}
    by_prompt = {_words(question["prompt"]): question for question in [*map(_earlier_wording, questions), *questions]}
    for where, row in lacking:
        prompt = row["prompt"]
        found = by_key.get(str(row["key"])) if prompt is None else by_prompt.get(_words(prompt))
        if found is None:
            continue
        if row["instruction_id_list"] not in (None, found["instruction_id_list"]):
            raise UserError(
                f"{where}: has other instructions than ifeval/input_data.jsonl has for its prompt: add kwargs"
            )
        row["prompt"] = found["prompt"] if prompt is None else prompt
        row["instruction_id_list"], row["kwargs"] = found["instruction_id_list"], found["kwargs"]


def _words(prompt: str) -> str:
    return " ".join(prompt.split())


def _earlier_wording(question: dict) -> dict:
    """The question as it was in November 2023, when number 2785 asked for one placeholder; files graded since have it.

    Google's GPT-4 responses and M-IFEval answer that wording, and M-IFEval accepts one placeholder.
    """
    if question["id"] != "2785":
        return question
    return question | {
        "prompt": question["prompt"].replace("at least 3 placeholders", "at least one placeholder"),
        "kwargs": [
            each | {"num_placeholders": 1} if "num_placeholders" in each else each for each in question["kwargs"]
        ],
    }


def _shown(number: int, row: dict) -> dict:
    return {
        "row": number,
        **({} if row["key"] is None else {"key": row["key"]}),
        "instruction_id_list": row["instruction_id_list"],
        "strict": row.get("strict"),
        "loose": row.get("loose"),
    }


@cache
def _warn(data_dir: Path | None) -> None:
    """Says once, before any work, that nltk's data are not installed."""
    if notice := check_resources(data_dir):
        print(notice, file=sys.stderr)


def _load(data_dir: Path) -> list[dict]:
    file = files.find(data_dir / "ifeval", "ifeval", "input_data.jsonl")
    questions, keys = [], set()
    for where, row in files.read_located_rows(
        file, nan_is_absent=("kwargs",), key=int, prompt=str, instruction_id_list=list, kwargs=list
    ):
        question = _row(where, row | {"response": None})
        if row["key"] in keys:
            raise UserError(f"{where}: key {row['key']} was there before")
        keys.add(row["key"])
        names = ("prompt", "instruction_id_list", "kwargs")
        questions.append({"id": str(row["key"]), **{name: question[name] for name in names}})
    return questions


class IFEval:
    """IFEval as a benchmark: the share of prompts whose instructions are followed."""

    name = "ifeval"
    title = "IFEval"
    needs_judge = False
    needs_pairs = False
    needs_logprobs = False
    turns = 1
    Options = NoOptions

    def load(self, data_dir: Path, settings: Settings) -> Questions:
        _warn(data_dir)
        return Questions(_load(data_dir), answering=self.resources(data_dir))

    def resources(self, data_dir: Path) -> dict[str, Path]:
        """The model that splits sentences, where there is one: it decides some verdicts."""
        model = find_model(data_dir)
        return {SPLITTER: model} if model else {}

    def answer(self, policy: Policy, items: Questions, settings: Settings, advance: Advance | None) -> list[dict]:
        from harness.benchmarks.lm_eval_model import evaluate, named_settings

        sampling = Sampling(settings.max_new_tokens or MAX_NEW_TOKENS, settings.temperature or 0.0, seed=settings.seed)
        records = evaluate(policy.engine, self.name, _task(items), sampling, advance)
        samples = []
        with Checker(items.answering.get(SPLITTER)) as checker:
            asked = named_settings(self.name, 0) | checker.tools()
            for item in items:
                response = records[item["id"]]["resps"][0][0]
                graded = grade(checker, item, response, f"ifeval/input_data.jsonl, key {item['id']}")
                samples.append({"id": item["id"], "response": response, **graded, "settings": asked})
        return samples

    def score(self, items: list[dict], samples: list[dict], judgments: list[dict]) -> Score:
        ids = {item["id"]: item["instruction_id_list"] for item in items}
        graded = [sample | {"instruction_id_list": ids[sample["id"]]} for sample in samples]
        overall = accuracies(graded)
        return Score(
            benchmark=self.name,
            metric="prompt-level strict accuracy %",
            value=overall["prompt_strict"],
            values={sample["id"]: 100.0 * all(sample["strict"]) for sample in samples},
            questions=len(items),
            details={
                **overall,
                "groups": group_accuracies(graded),
                "empty": sum(not sample["response"].strip() for sample in samples),
                "unchecked": sum(sample["unchecked"] for sample in samples),
                **samples[0]["settings"],
            },
        )


def _task(items: Sequence[dict]):
    """lm-eval's task ifeval with these questions, without its grading."""
    import lm_eval
    from lm_eval.tasks._yaml_loader import load_yaml

    from harness.benchmarks.lm_eval_model import local_task

    file = Path(lm_eval.__file__).parent / "tasks" / "ifeval" / "ifeval.yaml"
    config = load_yaml(file, resolve_func=False)  # its functions' module would download nltk's data
    documents = [{"id": item["id"], "prompt": item["prompt"]} for item in items]
    ungraded = {"process_results": lambda *_: {}, "metric_list": []}
    return local_task(config | ungraded, **{config["test_split"]: documents})
