"""The figures of docs/performance.md that need a GPU, in one call of ten minutes: make gpu

python tests/helpers/gpu_figures.py FOLDER [--device cpu]

Each command's JSON goes to FOLDER, with its errors beside it; summary.json says which ended and how long they took.
A command that takes too long is ended, and the next one begins. With --device cpu everything is small: to try the
script itself.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import typer

from harness.models.folder import MODEL_DIR
from harness.perf.contenders import build_model
from harness.perf.workload import shape_of

PEAK = "989e12"  # FLOP/s of an H100, dense bfloat16, by its data sheet
CONTENDERS = {"sso": "published,ours,ours-cached", "dpo": "trl,ours,ours-cached"}
RUN = ("--method", "dpo", "--benchmark", "math", "--limit", "16")  # random weights end no reply that SSO could train on
ROLES = ("reference", "train")


def main(folder: Path, device: str = "cuda") -> None:
    small = device == "cpu"
    folder.mkdir(parents=True, exist_ok=True)
    shapes = {"small": "1"} if small else {"qwen2-0.5b": "4", "qwen2-1.5b": "2"}
    tiny = ("--layers", "1", "--vocabulary", "2000") if small else ()
    summary = {}
    for shape, batch in shapes.items():
        for objective, contenders in CONTENDERS.items():
            flex = "" if small else ",ours-flex"
            options = ("--objective", objective, "--shape", shape, "--batch", batch, "--steps", "1", "--rounds", "3")
            options += ("--contenders", contenders + flex, "--device", device, "--peak-flops", PEAK, *tiny, "--json")
            name = f"train-{objective}-{shape}"
            summary[name] = call(folder / name, 110, "bench", "train", *options)
    model = random_model(folder / "model", next(iter(shapes)), small)
    budget, tokens, batches = ("5e11", "16", "4") if small else ("2e15", "256", "64,256")
    generated = ("--model", model, "--device", device, "--batches", batches, "--new-tokens", tokens, "--rounds", "2")
    summary["generate"] = call(folder / "generate", 120, "bench", "generate", *generated, "--json")
    options = ("--model", model, "--preferences", pairs(folder))
    options += (*RUN, "--budget", budget, "--max-new-tokens", tokens)
    expected = call(folder / "estimate", 60, "estimate", *options, "--gpu", "h100", "--gpus", "1", "--json")
    run = call(folder / "run", 200, "run", *options, "--device", device, "--name", "gpu", "--results", folder)
    summary |= {"estimate": expected, "run": run}
    if expected["status"] == run["status"] == 0:
        summary["estimated_and_measured_seconds"] = compared(folder)
    (folder / "summary.json").write_text(json.dumps(summary, indent=2))
    print(json.dumps(summary, indent=2))
    if any(each.get("status") for each in summary.values()):
        sys.exit(1)


def call(file: Path, most: int, *words: object) -> dict:
    """Run a command of harness for at most so many seconds; its output goes to file.json and file.log."""
    print("harness", *words, file=sys.stderr)
    start = time.monotonic()
    with open(file.with_suffix(".json"), "w") as output, open(file.with_suffix(".log"), "w") as errors:
        command = [sys.executable, "-m", "harness", *map(str, words)]
        try:
            status = subprocess.run(command, stdout=output, stderr=errors, timeout=most).returncode
        except subprocess.TimeoutExpired:
            status = f"ended after {most} s"
    return {"status": status, "seconds": round(time.monotonic() - start, 1)}


def random_model(folder: Path, shape: str, small: bool) -> Path:
    """A model of this shape with random weights, and the embedded model's tokenizer."""
    from transformers import AutoTokenizer

    model = build_model(shape_of(shape, layers=2 if small else None), 0, "cpu")
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def pairs(folder: Path) -> Path:
    """Pairs of words, as long as answers of a chat model are."""
    words = [f"word {number}" for number in range(60)]
    rows = [
        {"prompt": f"Question {number}?", "chosen": " ".join(words), "rejected": " ".join(words[::-1])}
        for number in range(2000)
    ]
    file = folder / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def compared(folder: Path) -> dict[str, list[float]]:
    """Seconds of each role over all arms: as estimated, and as measured."""
    hours = json.loads((folder / "estimate.json").read_text())["cost"]["hours"]
    ledgers = [json.loads(file.read_text())["roles"] for file in folder.glob("runs/gpu/arms/*/ledger.json")]
    measured = {role: sum(each[role]["seconds"] for each in ledgers if role in each) for role in ROLES}
    return {role: [round(3600 * hours[role], 2), round(seconds, 2)] for role, seconds in measured.items()}


if __name__ == "__main__":
    typer.run(main)
