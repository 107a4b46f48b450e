"""What fuzz.py feeds: each target takes bytes and says whether they were accepted (a UserError is a refusal).

It checks that what was accepted is what the input says.
"""

import contextlib
import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path

from fuzz_seeds import FILES, QUESTIONS


class Place:
    """Where targets write: set by the process that fuzzes."""

    folder: Path
    suites: dict[str, Path] = {}  # of each benchmark: its folder of files


PLACE = Place()


class Wrong(AssertionError):
    """Something was accepted that is not what the input says."""


def check(condition: object, what: str) -> None:
    if not condition:
        raise Wrong(what)


def _file(name: str, data: bytes) -> Path:
    path = PLACE.folder / name
    path.write_bytes(data)
    return path


def _prompts(name: str, data: bytes, rows: Callable[[Path], int]) -> bool:
    """Every row is used or counted, the texts stand in the file, and what was read survives being written."""
    from harness.methods.prompts import load_prompts
    from harness.types import reply_text

    path = _file(name, data)
    labelled = len(data) % 4 == 0
    found = load_prompts(path, labelled)
    check(len(found.prompts) + found.duplicates + found.empty == rows(path), "rows are not all counted")
    written = PLACE.folder / "again.jsonl"
    lines = [
        each.record | ({"chosen": each.chosen, "rejected": each.rejected} if each.chosen is not None else {})
        for each in found.prompts
    ]
    written.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    again = load_prompts(written, labelled)
    check(again.duplicates == again.empty == 0, "a row became empty or a duplicate")
    for before, after in zip(found.prompts, again.prompts, strict=True):
        same = before.content | {"id": ""} == after.content | {"id": ""}
        check(same, "what was read does not survive being written")
        check(any(message["role"] == "user" for message in before.messages), "has no message of the user")
        check(not labelled or all(reply_text(each).strip() for each in (before.chosen, before.rejected)), "no reply")
    return True


def _json_lines(path: Path) -> int:
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    rows = [json.loads(line) for line in re.split("\r\n|\r|\n", text) if line.strip(" \t")]
    return len(rows)


def _csv_rows(path: Path) -> int:
    import csv

    with open(path, encoding="utf-8-sig", newline="") as file:
        return sum(1 for row in csv.reader(file) if row) - 1


def _parquet_rows(path: Path) -> int:
    from pyarrow.parquet import ParquetFile

    return ParquetFile(path).metadata.num_rows


def prompts_jsonl(data: bytes) -> bool:
    return _prompts("p.jsonl.gz" if data[:2] == b"\x1f\x8b" else "p.jsonl", data, _json_lines)


def prompts_json(data: bytes) -> bool:
    return _prompts("p.json", data, lambda path: len(json.loads(path.read_bytes().decode("utf-8-sig"))))


def csv(data: bytes) -> bool:
    return _prompts("p.csv", data, _csv_rows)


def parquet(data: bytes) -> bool:
    return _prompts("p.parquet", data, _parquet_rows)


def config(data: bytes) -> bool:
    """A configuration that is accepted survives being written, as a run's folder holds it."""
    import yaml

    from harness.experiment.options import Experiment
    from harness.files.typed import build, load

    experiment = build(Experiment, load(_file("c.yaml", data)), "option")
    written = _file("again.yaml", yaml.safe_dump(experiment.as_dict(), sort_keys=False).encode())
    again = build(Experiment, load(written), "option")
    check(again.as_dict() == experiment.as_dict(), "does not survive being written")
    check(0 < experiment.cap.amount < float("inf"), "no budget")
    return True


def set_options(data: bytes) -> bool:
    """Settings that are accepted give stages whose numbers can be planned with."""
    from harness.budget import Budget
    from harness.experiment.options import Experiment
    from harness.experiment.settings import add_settings
    from harness.files.typed import build
    from harness.methods.base import Lengths
    from harness.stages.collect import plan_stage
    from harness.work import Nominal

    settings = data.decode("utf-8", "surrogateescape").split("\n")
    options = add_settings(None, settings)
    experiment = build(Experiment, {"methods": "sso,dpo,self-rewarding,sft", "options": options}, "option")
    for arm in experiment.arms():
        for stage in experiment.method(arm).stages(experiment.method_options(arm)):
            plan = plan_stage(stage, Budget.parse("1e15"), Lengths(50, 40, 30), Nominal(10_000_000))
            check(plan.updates >= 1 and plan.flops <= 1e15, "an impossible plan")
    return True


def benchmark_rows(data: bytes) -> bool:
    """Questions that are accepted can be stored: they are whole texts. The first byte names the benchmark."""
    from harness.benchmarks.base import Settings
    from harness.experiment import registry
    from harness.files import store

    names = sorted(FILES)
    name = names[data[0] % len(names)] if data else names[0]
    folder = PLACE.suites[name]
    (folder / FILES[name]).write_bytes(data[1:])
    items = registry.load("benchmark", name).load(folder, Settings())
    check(items, "no questions")
    store.digest(items)
    return True


def verdicts(data: bytes) -> bool:
    """A rating stands literally in the text and in range, and whatever stands before a verdict never replaces it.

    Also FastChat's judgments and AlpacaEval's annotations, whose scores stay within their scales.
    """
    from harness.benchmarks.alpaca_annotations import score_annotations
    from harness.benchmarks.mt_bench_judgments import score_judgments
    from harness.errors import UserError
    from harness.judges.verdicts import parse_choice, parse_rating

    text = data.decode("utf-8", "replace")
    rating, choice = parse_rating(text), parse_choice(text)
    literal = [part.rpartition("[[")[2] for part in text.split("]]")[:-1] if "[[" in part]
    check(rating is None or 1 <= rating <= 10, "a rating out of range")
    check(rating is None or rating in map(_number, literal), "a rating that is not there")
    check(choice is None or {"A": "A", "B": "B", "tie": "C"}[choice] in literal, "a choice that is not there")
    check(parse_rating(text + " [[7]]") == 7 and parse_choice(text + " [[B]]") == "B", "another verdict than the last")
    accepted = rating is not None or choice is not None
    for name, score in (("j.jsonl", score_judgments), ("a.json", score_annotations)):
        path = _file(name, data)
        with contextlib.suppress(UserError):
            if name == "j.jsonl":
                found = score(path)
                for model in found["models"].values():
                    check(model["score"] is None or 0 <= model["score"] <= 10, "a score off the scale")
                with contextlib.suppress(UserError):
                    score(path, reparse=True)
            else:
                found = score(path, resamples=10)
                check(0 <= found["win_rate"] <= 100, "a win rate off the scale")
                with contextlib.suppress(UserError):
                    score(path, resamples=10, from_logprobs=True)
            json.dumps(found, allow_nan=False)
            accepted = True
    return accepted


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text) else None


def judge_replies(data: bytes) -> bool:
    """Any body is an answer or a told error, whose texts can be written and whose numbers are numbers."""
    from harness.endpoints.wire import no_credit, read_answer, retry_after

    body = data.decode("utf-8", "replace")
    answer = read_answer(body)
    json.dumps([answer.text, answer.first_token, answer.usage], allow_nan=False, ensure_ascii=False).encode()
    check(answer.error is not None or isinstance(json.loads(body), dict), "no object, and no error")
    no_credit(400, body)
    seconds = retry_after({"retry-after": body[:100], "retry-after-ms": body[100:200]})
    check(seconds is None or 0 <= seconds < float("inf"), "a wait that never ends")
    return answer.error is None


def scores(data: bytes) -> bool:
    """Self-rewarding's scores: whole, within 0 to 5, literally there, and the last one counts."""
    from baselines.self_rewarding import parse_score

    text = data.decode("utf-8", "replace")
    score = parse_score(text)
    check(score is None or (re.search(rf"Score:[\s*]*{score}", text) and score <= 5), "a score that is not there")
    check(parse_score(f"{text}\nScore: 4") == 4, "another score than the last")
    check(parse_score(text.replace("Score", "score")) is None, "a score without its mark")
    return score is not None


def principles(data: bytes) -> bool:
    """Written principles: both literally in the reply, short, without control characters."""
    from sso.principles import LONGEST, parse_written

    text = data.decode("utf-8", "replace")
    found = parse_written(text)
    for part in (found.good, found.bad) if found else ():
        check(part.strip() and part in text and len(part) <= LONGEST, "a principle that is not there")
        check("\0" not in part and "\n" not in part, "a control character")
    return found is not None


TARGETS = {
    "prompts-jsonl": (prompts_jsonl, 20),
    "prompts-json": (prompts_json, 10),
    "csv": (csv, 10),
    "parquet": (parquet, 5),
    "config": (config, 15),
    "set-options": (set_options, 10),
    "benchmark-rows": (benchmark_rows, 10),
    "verdicts": (verdicts, 10),
    "judge-replies": (judge_replies, 5),
    "scores": (scores, 3),
    "principles": (principles, 2),
}  # and the share of all inputs, in percent


def write_suites() -> None:
    """The testbed's benchmark files, a copy for each benchmark whose file is replaced, which begins with some rows."""
    from harness.testbed import suites

    for name, file in FILES.items():
        folder = PLACE.suites[name] = PLACE.folder / name
        suites.write_suites(folder)
        path = folder / file
        text = QUESTIONS.get(name) or "".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:5])
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
