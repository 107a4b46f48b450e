"""IFEval (Zhou et al. 2023, arXiv:2311.07911): instructions that a program can check, by lm-eval's checkers.

Strict checks the response as it is; loose also without its first line, its last line, or its asterisks. Both are
reported as the share of prompts whose instructions are all followed, and as the share of instructions.
"""

import sys
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from harness.benchmarks import files
from harness.benchmarks.base import BenchmarkSize, HubTask, NoOptions, Policy, Questions, Score, Settings
from harness.benchmarks.defaults import BenchmarkDefaults
from harness.benchmarks.ifeval_checks import Checker, check_resources, find_model
from harness.benchmarks.rows import IFEvalItem, IFEvalSample, IFEvalVerdicts
from harness.engines.base import Sampling
from harness.errors import UserError
from harness.files.data_files import DataFile
from harness.progress import Advance
from harness.thoughts import MARKS, Marks, ThoughtSplit, counted, split_thought

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask

MAX_NEW_TOKENS = 1280
SPLITTER = "sentence splitter"  # name of the file with nltk's trained model
ENGLISH = "en:"  # M-IFEval's prefix of instruction ids


def score_responses(
    path: Path,
    *,
    items: bool = False,
    data_dir: Path | None = None,
    advance: Advance | None = None,
    marks: Marks = MARKS,
) -> dict[str, Any]:
    """Check existing responses.

    Args:
        path: rows with `prompt` and `response`, and optionally `instruction_id_list` and `kwargs`, as upstream writes
            them before and after grading; JSONL or a JSON list, plain or .gz.
        items: also return the verdicts of each row.
        data_dir: a data folder with ifeval/input_data.jsonl, in which rows without ids or arguments are looked up by
            prompt (by `key` if they have none).
        marks: of thoughts, which are removed before a response is graded.

    Returns:
        prompt_strict, instruction_strict, prompt_loose, instruction_loose (percent), n (graded prompts), instructions
        (in them), missing (rows without a response, or with an unknown prompt; not counted elsewhere), empty (responses
        without text, which follow nothing), duplicates (rows with the prompt of an earlier row; all count), unchecked
        (instructions whose check did not finish, which count as not followed), groups, and the tools that the verdicts
        depend on. With items, "items": [{"row" (from 1), "key" if the row has one, "instruction_id_list", "strict",
        "loose"}], where the verdicts of a missing row are None.

    Raises:
        UserError: naming file, line and field.
    """
    located = files.read_located_rows(path, nan_is_absent=("kwargs", "key"))
    rows = [_row(where, row) for where, row in located]
    places = [where for where, _ in located]
    _look_up(list(zip(places, rows, strict=True)), data_dir)
    _warn(data_dir)
    splits: list[ThoughtSplit] = []
    graded: list[_Graded] = []
    with Checker(find_model(data_dir)) as checker:
        for where, row in zip(places, rows, strict=True):
            if row["response"] is not None:
                splits.append(split_thought(row["response"], marks))
                row["response"] = splits[-1].answer
            if row["instruction_id_list"] is not None and row["kwargs"] is not None and row["response"] is not None:
                ids, arguments, prompt = row["instruction_id_list"], row["kwargs"], row["prompt"] or ""
                verdicts = _verdicts(checker, ids, arguments, prompt, row["response"], where)
                graded.append({**verdicts, "instruction_id_list": ids})
                row["strict"], row["loose"] = verdicts["strict"], verdicts["loose"]
            if advance:
                advance(1)
        tools = checker.tools()
    responses = [row["response"] or "" for row in rows if "strict" in row]
    result: dict[str, Any] = {
        **accuracies(graded),
        "n": len(graded),
        "instructions": sum(len(row["strict"]) for row in graded),
        "missing": len(rows) - len(graded),
        "empty": sum(not response.strip() for response in responses),
        "duplicates": len(rows) - len({row["prompt"] or row["key"] for row in rows}),
        "unchecked": sum(row["unchecked"] for row in graded),
        **counted(splits),
        "groups": group_accuracies(graded),
        **tools,
    }
    if items:
        result["items"] = [_shown(number, row) for number, row in enumerate(rows, 1)]
    return result


class _Row(TypedDict):
    """A row of a file of responses; a missing value is None. strict, loose: the verdicts of a graded row."""

    prompt: str | None
    key: str | int | None
    response: str | None
    instruction_id_list: list[str] | None
    kwargs: list[dict[str, Any]] | None
    strict: NotRequired[list[bool]]
    loose: NotRequired[list[bool]]


class _Graded(IFEvalVerdicts):
    instruction_id_list: list[str]


def grade(checker: Checker, item: IFEvalItem, response: str, where: str) -> IFEvalVerdicts:
    """Check the instructions of a question on a response.

    Raises:
        UserError: naming `where`, for an unknown instruction or arguments that it cannot be checked with.
    """
    return _verdicts(checker, item["instruction_id_list"], item["kwargs"], item["prompt"], response, where)


def _verdicts(
    checker: Checker, ids: Sequence[str], kwargs: Sequence[dict[str, Any]], prompt: str, response: str, where: str
) -> IFEvalVerdicts:
    strict, loose, unchecked = [], [], 0
    for instruction_id, arguments in zip(ids, kwargs, strict=True):
        try:
            verdicts = checker.check(instruction_id, arguments, prompt, response)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        unchecked += verdicts is None
        strict.append(bool(verdicts and verdicts[0]))
        loose.append(bool(verdicts and verdicts[1]))
    return {"strict": strict, "loose": loose, "unchecked": unchecked}


def accuracies(graded: Sequence[IFEvalVerdicts]) -> dict[str, float | None]:
    """Return the four accuracies in percent; None if there are no rows."""
    return {
        "prompt_strict": _percent([all(row["strict"]) for row in graded]),
        "instruction_strict": _percent([verdict for row in graded for verdict in row["strict"]]),
        "prompt_loose": _percent([all(row["loose"]) for row in graded]),
        "instruction_loose": _percent([verdict for row in graded for verdict in row["loose"]]),
    }


def group_accuracies(graded: Sequence[_Graded]) -> dict[str, dict[str, float | None]]:
    """Return how many instructions each group has (the part of an id before the colon), and the shares in percent."""
    groups = defaultdict(list)
    for row in graded:
        for instruction_id, strict, loose in zip(row["instruction_id_list"], row["strict"], row["loose"], strict=True):
            groups[instruction_id.partition(":")[0]].append((strict, loose))
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


def _row(where: str, row: dict[str, Any]) -> _Row:
    """Check a row of a file of responses, and remove M-IFEval's prefixes.

    Raises:
        UserError: for a field of a wrong type.
    """
    if "response" not in row:
        raise UserError(f"{where}: field 'response' is missing")
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
        if not ids or not all(type(name) is str for name in ids):
            raise UserError(f"{where}: field 'instruction_id_list' must hold texts, not {ids!r:.60}")
        ids = [name.removeprefix(ENGLISH) for name in ids]
    if arguments is not None:
        arguments = [{} if given is None else given for given in arguments]
        if ids is None or len(arguments) != len(ids) or not all(type(given) is dict for given in arguments):
            raise UserError(f"{where}: field 'kwargs' must hold one object for each of instruction_id_list")
        arguments = [{name: _whole(value) for name, value in given.items()} for given in arguments]
    return {"prompt": prompt, "key": key, "response": response, "instruction_id_list": ids, "kwargs": arguments}


def _whole(value: Any) -> Any:
    """Return 3 for 3.0, which tools write if some rows have no number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _look_up(located: Sequence[tuple[str, _Row]], data_dir: Path | None) -> None:
    """Add missing instruction ids and arguments to rows whose prompt is in the input data."""
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
        question = by_key.get(str(row["key"])) if prompt is None else by_prompt.get(_words(prompt))
        if question is None:
            continue
        if row["instruction_id_list"] not in (None, question["instruction_id_list"]):
            raise UserError(
                f"{where}: has other instructions than ifeval/input_data.jsonl has for its prompt: add kwargs"
            )
        row["prompt"] = question["prompt"] if prompt is None else prompt
        row["instruction_id_list"], row["kwargs"] = question["instruction_id_list"], question["kwargs"]


def _words(prompt: str) -> str:
    return " ".join(prompt.split())


def _earlier_wording(question: IFEvalItem) -> IFEvalItem:
    """Return the question as of November 2023, when number 2785 asked for one placeholder.

    Google's GPT-4 responses and M-IFEval answer that wording, and M-IFEval accepts one placeholder.
    """
    if question["id"] != "2785":
        return question
    return {
        **question,
        "prompt": question["prompt"].replace("at least 3 placeholders", "at least one placeholder"),
        "kwargs": [
            given | {"num_placeholders": 1} if "num_placeholders" in given else given for given in question["kwargs"]
        ],
    }


def _shown(number: int, row: _Row) -> dict[str, Any]:
    return {
        "row": number,
        **({} if row["key"] is None else {"key": row["key"]}),
        "instruction_id_list": row["instruction_id_list"],
        "strict": row.get("strict"),
        "loose": row.get("loose"),
    }


@cache
def _warn(data_dir: Path | None) -> None:
    """Report once, before any work, that nltk's data are not installed."""
    if notice := check_resources(data_dir):
        print(notice, file=sys.stderr)


def _load(data_dir: Path) -> list[IFEvalItem]:
    file = files.find(data_dir / "ifeval", "ifeval", "input_data.jsonl")
    questions: list[IFEvalItem] = []
    keys = set()
    for where, row in files.read_located_rows(
        file, nan_is_absent=("kwargs",), key=int, prompt=str, instruction_id_list=list, kwargs=list
    ):
        question = _row(where, row | {"response": None})
        if row["key"] in keys:
            raise UserError(f"{where}: key {row['key']} occurs twice")
        keys.add(row["key"])
        ids, arguments = question["instruction_id_list"] or [], question["kwargs"] or []
        questions.append(
            {"id": str(row["key"]), "prompt": row["prompt"], "instruction_id_list": ids, "kwargs": arguments}
        )
    return questions


class IFEval(BenchmarkDefaults):
    """IFEval as a benchmark: the share of prompts whose instructions are followed."""

    name = "ifeval"
    title = "IFEval"
    packages = ("lm-eval", "nltk", "langdetect")
    data_files = (
        DataFile(
            "ifeval/input_data.jsonl",
            "https://raw.githubusercontent.com/Podtech-AI/IFEval/fd7642063f038389e15c5fafe9d9fcb8d6ea3485/"
            "data/input_data.jsonl",
            "67ffeee0fcb87c317c5b08a2de85557b4a7e96ada6178aa645b4954fe4b53d49",
            "Apache-2.0",
        ),
        DataFile(
            "nltk_data/tokenizers/punkt_tab.zip",
            "https://raw.githubusercontent.com/nltk/nltk_data/550b6625bcef1f2abff2ff770a5a0d272c9c6b2a/"
            "packages/tokenizers/punkt_tab.zip",
            "e57f64187974277726a3417ca6f181ec5403676c717672eef6a748a7b20e0106",
            "MIT",
        ),
    )
    size = BenchmarkSize(questions=541, prompt=70, answer=350)
    further = {
        "prompt_loose": "loose, prompts %",
        "instruction_strict": "strict, instructions %",
        "instruction_loose": "loose, instructions %",
    }
    parts = {"groups": "by group of instructions"}
    Options = NoOptions

    def hub_task(self, options: NoOptions) -> HubTask:
        return HubTask("google/IFEval", "default")

    def load(self, data_dir: Path, settings: Settings) -> Questions[IFEvalItem]:
        _warn(data_dir)
        return Questions(_load(data_dir), answering=self.resources(data_dir))

    def resources(self, data_dir: Path) -> dict[str, Path]:
        """Return the model that splits sentences, if there is one: some verdicts depend on it."""
        model = find_model(data_dir)
        return {SPLITTER: model} if model else {}

    def answer(
        self, policy: Policy, items: Questions[IFEvalItem], settings: Settings, advance: Advance | None
    ) -> list[IFEvalSample]:
        from harness.benchmarks.lm_eval_model import evaluate, named_settings

        sampling = Sampling(settings.max_new_tokens or MAX_NEW_TOKENS, settings.temperature or 0.0, seed=settings.seed)
        records = evaluate(policy.engine, self.name, _task(items), sampling, advance)
        samples: list[IFEvalSample] = []
        with Checker(items.answering.get(SPLITTER)) as checker:
            asked = {**named_settings(self.name, 0), **checker.tools()}
            for item in items:
                response = records[item["id"]]["resps"][0][0]
                graded = grade(checker, item, response, f"ifeval/input_data.jsonl, key {item['id']}")
                samples.append({"id": item["id"], "response": response, **graded, "settings": asked})
        return samples

    def score(self, items: list[IFEvalItem], samples: list[IFEvalSample], judgments: list[Any]) -> Score:
        ids = {item["id"]: item["instruction_id_list"] for item in items}
        graded: list[_Graded] = [
            {
                "strict": row["strict"],
                "loose": row["loose"],
                "unchecked": row["unchecked"],
                "instruction_id_list": ids[row["id"]],
            }
            for row in samples
        ]
        overall = accuracies(graded)
        return Score(
            benchmark=self.name,
            metric="prompt-level strict accuracy %",
            value=100 * fmean(all(sample["strict"]) for sample in samples),
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


def _task(items: Sequence[IFEvalItem]) -> "ConfigurableTask":
    """Return lm-eval's task ifeval with these questions, without its grading (whose module downloads nltk's data)."""
    from harness.benchmarks.lm_eval_model import local_task, stock_config

    config = stock_config("ifeval", "ifeval")
    documents = [{"id": item["id"], "prompt": item["prompt"]} for item in items]
    ungraded = {"process_results": lambda *_: {}, "metric_list": []}
    return local_task(config | ungraded, **{config["test_split"]: documents})
