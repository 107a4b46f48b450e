"""Valid inputs that fuzz.py starts from, and the pieces that it puts into them."""

import csv
import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path

import yaml
from prompt_formats import FORMATS

TOKENS = [
    *('"', "{", "}", "[", "]", ":", ",", "\\", "\n", "\r", "\r\n", "\0", "\ufeff", "\u2028", "\u202e", "'", "="),
    *("\\ud800", "\\udc00\\ud83d", "NaN", "-Infinity", "1e400", "9" * 5000, "null", "true", "[" * 3000, '{"a":' * 500),
    *('"prompt"', '"chosen"', '"messages"', '"role"', '"user"', '"content"', "\n\nHuman:", "\n\nAssistant:", "-1", "0"),
    *("&a ", "*a", "<<: ", "!!python/object:os.system ", "!!int ", "? ", "- ", ": ", "|", ">", "---", "#", "%YAML"),
    *("[[7]]", "[[A]]", "[[", "]]", "[[11]]", "[[\u0663]]", "Score: 5", "Good: a", "Bad: b", "é", "𝔸", ".", "1e-3"),
]
FILES = {  # of a benchmark: the one that is fuzzed
    "mt-bench": "mt_bench/question.jsonl",
    "gsm8k": "gsm8k/test.jsonl",
    "reward-bench": "rewardbench/rewardbench.jsonl",
    "ifeval": "ifeval/input_data.jsonl",
    "math": "math/math500.jsonl",
    "alpaca-eval": "alpaca_eval/reference.json",
}
QUESTIONS = {  # of benchmarks that the testbed has not, or whose file is one list
    "gsm8k": '{"question": "1 + 1?", "answer": "two #### 2"}\n',
    "ifeval": '{"key": 1, "prompt": "Q", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}\n',
    "alpaca-eval": '[{"instruction": "Q", "output": "A", "generator": "g"}]',
}
ROWS = [row for row, *_ in FORMATS.values()]
PAIRS = [{"prompt": f'Why {n}?\r\n"so"', "chosen": "a, b", "rejected": "مرحبا\u2028", "input": ""} for n in range(3)]
TOP = [{"token": "m", "logprob": -0.1}, {"token": "M", "logprob": -2.5}]
JUDGMENT = {
    "question_id": 81,
    "model": "m",
    "judge": ["gpt-4", "single-v1"],
    "turn": 1,
    "judgment": "It is fine. Rating: [[8]]",
    "score": 8,
}
ANNOTATION = {
    "instruction": "Q",
    "output_1": "a",
    "output_2": "b",
    "generator_1": "r",
    "generator_2": "m",
    "annotator": "w",
    "preference": 1.5,
    "raw_completion": {"logprobs": {"content": [{"top_logprobs": TOP}]}},
}
COMPLETION = {
    "model": "m",
    "choices": [
        {
            "message": {"role": "assistant", "content": "[[7]]"},
            "logprobs": {"content": [{"token": "A", "logprob": -0.1, "top_logprobs": TOP}]},
        }
    ],
    "usage": {"prompt_tokens": 5, "completion_tokens": 2},
    "system_fingerprint": "f",
}
SETTINGS = [
    *("sso.beta=0.2\ndpo.data=on-policy", "sso.learning_rate=1e-4", "sft.lora_rank=8\nsft.batch_size=4"),
    *("sso.features=2", "self-rewarding.candidates=4\nself-rewarding.iterations=2", "sso.principles=self"),
]
TEXTS = {
    "scores": ["It is good. Score: 4", "Score: **3**\nScore: 5/5", "Score: 10", "Score: 2.5"],
    "principles": ["Good: be kind\nBad: be rude", "1. **Good:** \"say why\"\n2. **Bad**: 'nothing'", "Bad: a\nGood: b"],
    "set-options": SETTINGS,
    "config": [
        "methods: [sso, plus=sso]\noptions:\n  sso: &a {beta: 0.2, loss: ipo}\n  plus: {<<: *a, learning_rate: 1e-4}\n",
        "seeds: 3\nbudget: updates=40\nlimit: ~\ntemperature: 0.5\nname: 2024-01-01\n",
    ],
    "judge-replies": ['{"error": {"code": "insufficient_quota", "type": "x"}}', "17", "Wed, 21 Oct 2026 07:28:00 GMT"],
    "verdicts": ["As said in [1]: [[3]]. Rating: [[9.5]]", "[[A]] or [[C]]", "[[B]"],
    "csv": ['prompt\nQ\n\n"R\nS"\n', "instruction,input\na,b\n"],
    "prompts-jsonl": ["\ufeff{}\r\n\r{}\n"],
    "prompts-json": ["[]"],
}


def lines(rows: list[dict]) -> bytes:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()


def seeds(target: str, suites: dict[str, Path]) -> list[bytes]:
    """Valid inputs of a target of fuzz.py. `suites`: a folder of files for each benchmark."""
    texts = [text.encode() for text in TEXTS.get(target, ())]
    match target:
        case "prompts-jsonl":
            return [lines(ROWS), *(lines([row]) for row in ROWS), gzip.compress(lines(ROWS)), *texts]
        case "prompts-json":
            return [json.dumps(ROWS).encode(), json.dumps(PAIRS, indent=1).encode(), *texts]
        case "csv":
            text = io.StringIO()
            writer = csv.DictWriter(text, PAIRS[0])
            writer.writeheader()
            writer.writerows(PAIRS)
            return [text.getvalue().encode(), *texts]
        case "parquet":
            return list(_parquet())
        case "config":
            from harness.experiment.options import Experiment

            return [yaml.safe_dump(Experiment().as_dict()).encode(), *texts]
        case "benchmark-rows":
            paths = [suites[name] / FILES[name] for name in sorted(FILES)]
            return [bytes([index]) + path.read_bytes() for index, path in enumerate(paths)]
        case "verdicts":
            return [lines([JUDGMENT]), lines([JUDGMENT, JUDGMENT | {"turn": 2}]), lines([ANNOTATION]), *texts]
        case "judge-replies":
            return [lines([COMPLETION]), *texts]
    return texts


def _parquet() -> Iterator[bytes]:
    import pyarrow
    from pyarrow import parquet

    chat = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    odd = {"prompt": ["a", "b", "c"], "input": pyarrow.array([1, 2, 3], pyarrow.timestamp("ns"))}
    tables = [
        pyarrow.Table.from_pylist(PAIRS),
        pyarrow.Table.from_pylist([{"messages": chat, "prompt": None}, {"messages": chat[:1], "prompt": None}]),
        pyarrow.table(odd),
        pyarrow.table({"prompt": pyarrow.array(["a", "b", "a"]).dictionary_encode(), "other": [b"\xff", None, b""]}),
    ]
    for table in tables:
        for compression in ("none", "snappy"):
            out = io.BytesIO()
            parquet.write_table(table, out, compression=compression)
            yield out.getvalue()
