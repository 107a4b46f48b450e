"""A judge made from GPT-4's stored verdicts, on loopback: what GPT-4 said is replied, and nothing else.

Pairs are those of LLMBar for which a verdict of GPT-4 is stored (Zeng et al. 2024; one order of most pairs: the other
order gets the same verdict, so nothing can be learned of its position bias). MT-Bench prompts get GPT-4's judgment of
that very prompt.

python tests/helpers/gpt4_verdicts.py --data-dir data --labels llmbar-gpt4.csv
"""

import argparse
import csv
import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loopback_json import json_server

NAME = "gpt-4-stored-verdicts"
STRATEGIES = ("Vanilla", "CoT", "Metrics_Reference", "Swap_CoT")  # the first that is stored of a pair and order counts
VERDICT = "[[{}]]"


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in gzip.open(path, "rt", encoding="utf-8")]


class Stored:
    """Verdicts of GPT-4 in a data folder."""

    def __init__(self, data_dir: Path):
        self.pairs: list[dict] = []  # question, answer_a, answer_b, label: what people say
        self._better: dict[tuple[str, str, str], str] = {}  # question, first answer, second answer -> the better answer
        self._ratings: dict[str, str] = {}  # MT-Bench prompt -> judgment
        found: dict[tuple[str, int], dict[bool, str]] = {}
        rows = [row for row in rows_of(data_dir / "judge_transcripts/llmbar_judgments.jsonl.gz") if row["winner"]]
        for strategy in reversed(STRATEGIES):
            for row in rows:
                if row["evaluator"] == "GPT-4" and row["strategy"] == strategy:
                    found.setdefault((row["set"], row["i"]), {})[row["swap"].endswith("True")] = row["winner"]
        self.orders = sum(map(len, found.values()))
        for (subset, place), winners in sorted(found.items()):
            pair = json.loads((data_dir / f"rewardbench/llmbar/{subset.replace('/', '_')}.json").read_text())[place]
            question, *answers = pair["input"], pair["output_1"], pair["output_2"]
            self.pairs.append(
                dict(question=question, answer_a=answers[0], answer_b=answers[1], label="AB"[pair["label"] - 1])
            )
            for swapped in (False, True):
                winner = winners.get(swapped, winners.get(not swapped))
                shown = answers[::-1] if swapped else answers
                self._better[question, *shown] = answers[int(winner) - 1]
        for path in sorted((data_dir / "mt_bench/model_judgment").glob("*.jsonl.gz")):
            for row in rows_of(path):
                if row["score"] != -1:
                    self._ratings.setdefault(row["user_prompt"], row["judgment"])

    def reply(self, text: str) -> str:
        if text in self._ratings:
            return self._ratings[text]
        question, first, second = read_pair(text)
        better = self._better.get((question, first, second))
        return "GPT-4's verdict is not stored." if better is None else VERDICT.format("A" if better == first else "B")


def read_pair(text: str) -> tuple[str, str, str]:
    """Question and answers of the prompt for pairs."""
    question = text.partition("[Question]\n")[2].partition("\n\n[The Start of Answer A]\n")[0]
    first = text.partition("[The Start of Answer A]\n")[2].partition("\n[The End of Answer A]")[0]
    second = text.partition("[The Start of Answer B]\n")[2].rpartition("\n[The End of Answer B]")[0]
    return question, first, second


def completion(text: str, model: str = NAME) -> dict:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}
    return {"id": "x", "object": "chat.completion", "created": 0, "model": model, "choices": [choice], "usage": usage}


@contextmanager
def serving_stored(stored: Stored) -> Iterator[str]:
    with json_server(lambda _, asked: (200, completion(stored.reply(asked["messages"][-1]["content"])))) as url:
        yield f"{url}/v1"


def write_labels(stored: Stored, file: Path) -> None:
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, list(stored.pairs[0]))
        writer.writeheader()
        writer.writerows(stored.pairs)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--labels", type=Path, required=True, help="CSV to write: the pairs with people's labels.")
    arguments = parser.parse_args()
    known = Stored(arguments.data_dir)
    write_labels(known, arguments.labels)
    with serving_stored(known) as address:
        print(f"{NAME} at {address}: {len(known.pairs)} pairs, {known.orders} stored orders; Enter ends it", flush=True)
        input()
