"""Asks lm-eval's own command and `harness eval` the same questions of real files, and prints a table of both.

    python tests/helpers/lm_eval_command.py MODEL DATA_DIR OUTPUT --questions 48

The questions are random, the same for both. lm-eval gets them in YAML tasks that include its own and name local files.
"""

import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import lm_eval
import typer

from harness.benchmarks.mmlu import read_archive
from harness.files import store
from harness.files.folders import file_name
from harness.files.rows import located

STOCK = Path(lm_eval.__file__).parent / "tasks"
SEED = 0
SENTENCES = "length_constraints:number_sentences"  # not asked: lm-eval needs nltk's punkt_tab for it
SHOTS = 5  # of MMLU; its tasks say none
SUBJECTS = ("astronomy", "high_school_us_history", "miscellaneous")
YAML = {
    "ifeval": "ifeval/ifeval.yaml",
    "gsm8k": "gsm8k/gsm8k.yaml",
    "hendrycks_math500": "hendrycks_math/hendrycks_math500.yaml",
    **{f"mmlu_{subject}": f"mmlu/default/mmlu_{subject}.yaml" for subject in SUBJECTS},
}
SCORES = {
    "ifeval": ("prompt_level_strict_acc,none", "inst_level_strict_acc,none"),
    "gsm8k": ("exact_match,strict-match", "exact_match,flexible-extract"),
}


def splits(data: Path, questions: int) -> dict[str, dict[str, list[Any]]]:
    """The rows of each task, by split."""

    def drawn(rows: list[Any]) -> list[Any]:
        return random.Random(SEED).sample(rows, min(questions, len(rows)))

    def rows(name: str, *columns: str) -> list[Any]:
        return [row for _, row in located(next((data / name).parent.glob(Path(name).name + "*")), columns)]

    asked = rows("ifeval/input_data.jsonl", "prompt", "instruction_id_list")
    found = {
        "ifeval": {"train": drawn([row for row in asked if SENTENCES not in row["instruction_id_list"]])},
        "gsm8k": {"test": drawn(rows("gsm8k/test.jsonl", "question")), "train": rows("gsm8k/train.jsonl", "question")},
        "hendrycks_math500": {"test": drawn(rows("math/math500.jsonl", "problem"))},
    }
    archive = read_archive(data / "mmlu" / "mmlu.zip")
    for subject in SUBJECTS:
        found[f"mmlu_{subject}"] = {"test": drawn(archive[subject]["test"]), "dev": archive[subject]["dev"]}
    return found


def main(
    model: str,
    data_dir: Path,
    output: Path,
    questions: Annotated[int, typer.Option(help="Per task.")] = 48,
    batch: Annotated[int, typer.Option(help="Most sequences at once.")] = 16,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
) -> None:
    """Ask both, and print a table in Markdown."""
    output = output.resolve()
    (output / "tasks").mkdir(parents=True, exist_ok=True)
    for task, parts in splits(data_dir, questions).items():
        folder = output / "data" / "lm_eval" / task
        folder.mkdir(parents=True, exist_ok=True)
        for split, rows in parts.items():
            store.write_jsonl(folder / f"{split}.jsonl", rows)
        files = {split: str(folder / f"{split}.jsonl") for split in parts}
        config = {
            "include": str(STOCK / YAML[task]),
            "task": f"{task}_here",
            "dataset_path": "json",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": files},
        }
        if task.startswith("mmlu"):
            config["num_fewshot"] = SHOTS
        store.write_json(output / "tasks" / f"{task}.yaml", config)
    arguments = f"pretrained={model},dtype={dtype}"
    theirs = _timed(
        *(sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--model_args", arguments, "--device", "cpu"),
        *("--tasks", ",".join(f"{task}_here" for task in YAML), "--include_path", str(output / "tasks")),
        *(
            "--apply_chat_template",
            "--batch_size",
            str(batch),
            "--output_path",
            str(output / "lm-eval"),
            "--use_cache",
            str(output / "answers"),
        ),
    )
    named = ",".join(f"lm-eval:{task}" for task in YAML)
    ours = _timed(
        *(sys.executable, "-m", "harness", "eval", model, "--benchmark", named, "--data-dir", str(output / "data")),
        *("--batch-size", str(batch), "--dtype", dtype, "--device", "cpu", "--name", output.name),
        *(word for each in SUBJECTS for word in ("--set", f"lm-eval:mmlu_{each}.num_fewshot={SHOTS}")),
    )
    _print(output, theirs, ours)


def _timed(*command: str) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - start


def _print(output: Path, theirs: float, ours: float) -> None:
    (file,) = (output / "lm-eval").rglob("results_*.json")
    found = store.read_json(file)["results"]
    print("| task | metric | lm-eval | harness |\n|---|---|---|---|")
    for task in YAML:
        score = Path("results/runs", output.name, "arms/base-seed0/scores", file_name(f"lm-eval:{task}") + ".json")
        own = store.read_json(score)["details"]["results"]
        for metric in SCORES.get(task, ("acc,none",) if task.startswith("mmlu") else ("exact_match,none",)):
            print(f"| {task} | {metric} | {found[f'{task}_here'][metric]:.4f} | {own[metric]:.4f} |")
    print(f"\nlm-eval {theirs:.0f} s, harness {ours:.0f} s, loading and grading included")


if __name__ == "__main__":
    typer.run(main)
