"""Writes the pairs of the reward model that judges results/smollm2, and the labels that it is audited with:

    python tests/helpers/judge_pairs.py data

`judge_pairs.jsonl` has pairs of auto-j's people for one half of its prompts, without ties and with at most 3,000
characters, and 300 short pairs of HH. `judge_labels.jsonl` has all pairs of the other half.
"""

import gzip
import json
import sys
from hashlib import sha256
from pathlib import Path

LONGEST = 3000  # characters of a prompt and its longer reply
LONGEST_HH = 2000  # of both conversations of a pair
HH_PAIRS = 300
LABELS = ("A", "B", "tie")


def read(path):
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return list(map(json.loads, file))


def number(text):
    return int(sha256(text.encode()).hexdigest(), 16)


def write(name, rows):
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(f"{name}: {len(rows)} rows")


def main(data):
    pairs, labels = [], []
    for row in read(data / "prompts/autoj_testdata_pairwise.jsonl.gz"):
        prompt, replies = row["prompt"], (row["response 1"], row["response 2"])
        if number(prompt) % 2:
            a, b = replies
            labels.append({"question": prompt, "answer_a": a, "answer_b": b, "label": LABELS[row["label"]]})
        elif LABELS[row["label"]] != "tie" and len(prompt) + max(map(len, replies)) < LONGEST:
            chosen, rejected = replies if row["label"] == 0 else reversed(replies)
            pairs.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    people = sorted(read(data / "prompts/hh_rlhf_harmless_base_test.jsonl.gz"), key=lambda row: number(row["chosen"]))
    short = [row for row in people if len(row["chosen"]) + len(row["rejected"]) < LONGEST_HH]
    write("judge_pairs.jsonl", pairs + [row for row in short if row["chosen"] != row["rejected"]][:HH_PAIRS])
    write("judge_labels.jsonl", labels)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
