"""Feeds broken input to everything that reads what others wrote: `python tests/helpers/fuzz.py [TARGET] [N]`.

N inputs (100,000 in all by default, shared by the targets), made from valid ones by mutation, guided by coverage where
atheris is installed (`pip install harness[fuzz]`). The property: a value or a UserError of one line within the time
limit, never another exception; and what is accepted is what the input says (see each target).
"""

import importlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

from paths import ROOT

sys.path.insert(0, str(ROOT))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from fuzz_seeds import TOKENS, seeds
from fuzz_targets import PLACE, TARGETS, check, write_suites

try:
    import atheris
except ImportError:
    atheris = None

ALL = 100_000
SECONDS = 5  # for one input
LARGE = 1 << 21  # bytes of an input
CHILD = "--child"
MODULES = (  # whose coverage guides
    *(
        "harness.methods.prompts",
        "harness.files.rows",
        "harness.experiment.options",
        "harness.files.plain_yaml",
        "harness.benchmarks.files",
    ),
    *("harness.benchmarks.mt_bench_judgments", "harness.benchmarks.alpaca_annotations", "harness.judges.verdicts"),
    *("harness.endpoints.wire", "baselines.self_rewarding", "sso.principles", "sso.method"),
)


def mutate(draw: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """The input with one to four changes: bytes, tokens, pieces left out, doubled, or taken from another input."""
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        start, end = sorted(draw.randrange(len(data) + 1) for _ in range(2))
        token = draw.choice(TOKENS).encode() if draw.random() < 0.99 else b"x" * 1_000_000
        other = draw.choice(others)
        match draw.randrange(11):
            case 0 | 9 | 10:
                data = data[:start] + bytes([draw.randrange(256)]) + data[start + 1 :]
            case 1:
                data = data[:start] + token + data[start:]
            case 2:
                data = data[:start] + token + data[min(end, start + 20) :]
            case 3:
                data = data[:start] + data[min(end, start + draw.choice((1, 5, 200))) :]
            case 4:
                data = data[:end] + data[start:end] * draw.choice((1, 2, 30)) + data[end:]
            case 5:
                data = data[:start] + other[draw.randrange(len(other) + 1) :]
            case 6:
                data = draw.choice((b"\n", b"\r\n", b"\r", b"\n\n")).join((data, other))
            case _:
                data = with_another_value(draw, data, token.decode())
    return data[:LARGE]


def with_another_value(draw: random.Random, data: bytes, token: str) -> bytes:
    """The input with another value somewhere in a line of JSON; unchanged where there is none."""
    rows = data.split(b"\n")
    place = draw.randrange(len(rows))
    try:
        value = json.loads(rows[place])
    except (ValueError, RecursionError):
        return data
    inner = [value] if isinstance(value, dict | list) and value else []
    while inner:
        holder = inner.pop()
        key = draw.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        if isinstance(holder[key], dict | list) and holder[key] and draw.random() < 0.8:
            inner.append(holder[key])
        elif isinstance(holder[key], str) and draw.random() < 0.8:
            holder[key] = draw.choice((token, holder[key] + token, "\ud800", ""))
        else:
            holder[key] = draw.choice((None, True, -1, 10**400, 1e308, float("nan"), [], {}, token, [token]))
    rows[place] = json.dumps(value).encode()
    return b"\n".join(rows)


class TooLong(BaseException):
    """An input took more than the time limit (no Exception, so that nothing takes it for one of its own)."""


def _too_long(*_) -> None:
    raise TooLong


class Trial:
    """Tries inputs on a target, and counts and keeps what came of them."""

    def __init__(self, target: str):
        self.function = TARGETS[target][0]
        self.counts: Counter[str] = Counter()
        self.findings: dict[str, str] = {}  # what and where, to the file with the first input that does it
        self.slowest = 0.0
        signal.signal(signal.SIGALRM, _too_long)

    def __call__(self, data: bytes) -> None:
        from harness.errors import UserError

        start = time.perf_counter()
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            try:
                self.counts["accepted" if self.function(data) else "refused"] += 1
            except UserError as error:
                check("\n" not in str(error), "an error of several lines")
                self.counts["refused"] += 1
        except (Exception, TooLong) as error:
            self._keep(error, data)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        self.slowest = max(self.slowest, time.perf_counter() - start)

    def _keep(self, error: BaseException, data: bytes) -> None:
        place = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__}: {error!s:.100} ({Path(place.filename).name}:{place.lineno})"
        self.counts["findings"] += 1
        if what not in self.findings and len(self.findings) < 20:
            kept = Path(tempfile.gettempdir()) / f"fuzz-{len(self.findings)}-{os.getpid()}"
            kept.write_bytes(data)
            self.findings[what] = str(kept)

    def report(self) -> dict:
        return {**self.counts, "slowest": round(self.slowest, 2), "found": self.findings}


def _fuzz(target: str, number: int, seed: int) -> None:
    """Tries so many inputs in this process, prints the report as JSON, and ends the process."""
    if target == "benchmark-rows":
        write_suites()
    valid, trial, draw = seeds(target, PLACE.suites), Trial(target), random.Random(seed)
    for data in valid:
        trial(data)
    if trial.counts["accepted"] == 0:
        raise SystemExit(f"no seed of {target} is accepted: {trial.report()}")
    done = len(valid)
    if atheris is None:
        for _ in range(number - done):
            trial(mutate(draw, draw.choice(valid), valid))
        print(json.dumps(trial.report()), flush=True)
        return

    def one(data: bytes) -> None:
        nonlocal done
        trial(data)
        done += 1
        if done >= number:
            print(json.dumps(trial.report()), flush=True)
            os._exit(0)

    def mutator(data: bytes, most: int, number: int) -> bytes:
        chance = random.Random(number)
        if number % 3 == 0:
            return atheris.Mutate(data, min(most, len(data) + 64))
        return mutate(chance, chance.choice(valid) if number % 3 == 1 else data, valid)[:most]

    corpus = PLACE.folder / "corpus"
    corpus.mkdir()
    for number_of, data in enumerate(valid):
        (corpus / str(number_of)).write_bytes(data)
    arguments = [f"-seed={seed + 1}", f"-max_len={LARGE}", "-mutate_depth=1", "-verbosity=0"]
    arguments += ["-timeout=60", "-rss_limit_mb=4096"]
    atheris.Setup([sys.argv[0], *arguments, str(corpus)], one, custom_mutator=mutator)
    atheris.Fuzz()


def main(target: str | None, number: int, seed: int = 0) -> int:
    """Fuzzes a target, or all, each in a process of its own, and prints what came of it."""
    shares = {target: 100} if target else {name: share for name, (_, share) in TARGETS.items()}
    wrong, start = 0, time.perf_counter()
    for name, share in shares.items():
        begun = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, __file__, CHILD, name, str(number * share // 100), str(seed), folder]
            done = subprocess.run(command, capture_output=True, text=True)
        lines = done.stdout.splitlines()
        report = json.loads(lines[-1]) if done.returncode == 0 and lines else {"found": {done.stderr[-2000:]: "(died)"}}
        found = report.pop("found")
        wrong += len(found)
        numbers = ", ".join(f"{what} {count}" for what, count in report.items())
        print(f"{name}: {numbers}, {time.perf_counter() - begun:.0f} s", flush=True)
        for what, kept in found.items():
            print(f"  FOUND {what}: {kept}", flush=True)
    guided = "guided by atheris" if atheris else "without atheris"
    print(f"{wrong} findings in {number} inputs, {guided}, {time.perf_counter() - start:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    if sys.argv[1:2] == [CHILD]:
        PLACE.folder = Path(sys.argv[5])
        if atheris:
            with atheris.instrument_imports(include=["harness", "sso", "baselines"]):
                for module in MODULES:
                    importlib.import_module(module)
        _fuzz(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        words = sys.argv[1:]
        chosen = words.pop(0) if words and words[0] in TARGETS else None
        sys.exit(main(chosen, int(words[0]) if words else ALL))
