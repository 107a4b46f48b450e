"""Every write of a run fails once, on a full or a broken disk: each time one clear line and no half file, in the end
the same bytes.

All write points, a full disk and a broken one: python tests/helpers/write_faults.py
"""

import ctypes
import errno
import gc
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path

SOURCE = Path(__file__).with_name("write_faults.c")
WITH_TIMES = {"seconds.json", "table.md", "spent.json", ".lock", "lock"}  # which two runs do not share
HARMLESS = (  # points that may fail unnoticed
    *("sendfile", "copy"),  # shutil goes on by plain reading and writing
    "short /runs/faults/.lock",  # the name of the owner
)
DATED = ("seconds", "date", "judgments/", "/steps/")  # parts of names of values: dates and times, and digests of such


@dataclass
class Findings:
    """points: that failed, by operation. problems: what a user should not have met."""

    points: Counter = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


def compiled(folder: Path) -> Path:
    library = folder / "write_faults.so"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
    return library


def survive(run, folder: Path, error: int, lasting: bool, pattern: str) -> Findings:
    """Calls `run` until no point is left that has not failed."""
    library = ctypes.CDLL(None)
    library.faults_hit.restype = library.faults_path.restype = ctypes.c_char_p
    library.faults_forget()
    findings = Findings()
    folder.mkdir()
    while True:
        told, spoken = None, io.StringIO()
        gc.collect()  # files of the last attempt, which its traceback held, are written to when they go
        library.faults_begin(os.fsencode(folder), error, lasting, pattern.encode())
        try:
            with redirect_stderr(spoken):
                told = run(folder)
        finally:
            library.faults_end()
        point, path = library.faults_hit().decode(), Path(os.fsdecode(library.faults_path()))
        if not point:
            assert told is None, told
            return findings
        findings.points[point.split()[0]] += 1
        wrong = list(problems(folder, point, path, error, lasting, told))
        if told is None:  # the run has finished
            shutil.rmtree(folder)
            folder.mkdir()
        if "Traceback" in spoken.getvalue():
            wrong.append(spoken.getvalue())
        findings.problems += [f"{point}: {each}" for each in wrong]


def problems(folder: Path, point: str, path: Path, error: int, lasting: bool, told: str | None):
    """What is wrong after a point has failed, with what the user was told."""
    from harness.files.marks import Folder

    if told is None:
        if not point.startswith(HARMLESS):
            yield "nobody noticed"
    else:
        named = Path(told.partition(": ")[0].partition(" cannot")[0])
        meant = [path for path in (target(path), *target(path).parents) if folder in path.parents]
        if named not in meant and not (lasting and folder in named.parents):  # then what is written next fails too
            yield f"names another file than {path}: {told}"
        if os.strerror(error) not in told and "is the disk full?" not in told:
            yield f"does not name the error: {told}"
        if "the same command" not in told or "\n" in told:
            yield f"does not say how to go on, in a line: {told}"
    for arm in folder.glob("runs/*/arms/*"):
        for step in Folder(arm).steps():
            yield from Folder(arm).damage(step)
    for file in folder.rglob("*"):
        if file.name.endswith(".tmp") or file.name.startswith(".tmp"):
            yield f"{file} was left"
        elif file.suffix == ".json" and "training" not in file.parts:
            json.loads(file.read_text())


def target(path: Path) -> Path:
    """What a temporary file, or one in a temporary folder, was to become."""
    return Path(re.sub(r"/\.([^/]+?)(\.\d+)?\.tmp(?=/|$)", r"/\1", str(path)))


def content(root: Path) -> dict[str, str]:
    """A digest of each file of a run, without the times in it."""
    return {
        str(path.relative_to(root)): hashlib.sha256(timeless(path)).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name not in WITH_TIMES
    }


def timeless(path: Path) -> bytes:
    if path.suffix not in {".json", ".jsonl"} or "checkpoints" in path.parts:
        return path.read_bytes()
    text = path.read_text()
    rows = [json.loads(each) for each in (text.splitlines() if path.suffix == ".jsonl" else [text])]
    if path.name == "requests.jsonl":  # in the order in which they were answered
        return json.dumps(sorted({(row["key"], row["reply"]["text"]) for row in rows if row["reply"]})).encode()
    return json.dumps([without_times(row) for row in rows]).encode()


def without_times(value):
    if isinstance(value, dict):
        return {name: without_times(each) for name, each in value.items() if not any(part in name for part in DATED)}
    return [without_times(each) for each in value] if isinstance(value, list) else value


def run_of(place: Path, method: str, budget: str, judge_url: str):
    """A run with all kinds of files: suites, completions, examples, states of training, checkpoints, a judge's log."""
    from harness.errors import UserError
    from harness.experiment.options import Experiment
    from harness.files import store
    from harness.files.disk import of_disk
    from harness.runs.inputs import load_prompts
    from harness.runs.run import run
    from harness.testbed.suites import write_suites
    from harness.training import state

    state.SHORTEST, state.SHARE = 0.0, 1.0  # a state after each update
    write_suites(place / "suites")
    for name, rows in zip(("prompts", "preferences"), load_prompts(Experiment()), strict=True):
        store.write_jsonl(place / f"{name}.jsonl", map(vars, rows))
    experiment = Experiment(
        name="faults",
        methods=tuple(method.split(",")),
        budget=budget,
        data_dir=str(place / "suites"),
        prompts=str(place / "prompts.jsonl"),
        preferences=str(place / "preferences.jsonl"),
        judge_url=judge_url,
        judge_model="loopback",
        limit=2,
        device="cpu",
    )

    def told_of(results: Path) -> str | None:
        """As of `harness.cli.main`."""
        try:
            run(experiment, results)
        except UserError as error:
            return str(error)
        except OSError as error:
            return str(of_disk(error) or f"not caught: {error!r}")
        except Exception as error:  # the traceback that a user would see
            return f"not caught: {error!r}"
        return None

    return told_of


def main(method: str, budget: str, kinds: str, points: str) -> int:
    os.environ["OPENAI_API_KEY"] = "none"
    from loopback import serving
    from loopback_judge import Handler

    place, failed = Path(tempfile.mkdtemp(prefix="write-faults-")), 0
    with serving(Handler) as judge:
        run = run_of(place, method, budget, f"{judge}/v1")
        told = run(place / "undisturbed")
        assert told is None, told
        expected = content(place / "undisturbed")
        for kind in kinds.split(","):
            start = time.perf_counter()
            name, _, lasting = kind.partition("-")
            findings = survive(run, place / kind, getattr(errno, name), bool(lasting), points)
            found = content(place / kind)
            findings.problems += [f"{file} differs" for file, _ in found.items() ^ expected.items()]
            counts = ", ".join(f"{count} {operation}" for operation, count in sorted(findings.points.items()))
            print(f"{kind}: {findings.points.total()} points ({counts}) in {time.perf_counter() - start:.0f} s")
            print("\n".join(findings.problems))
            failed += len(findings.problems)
    shutil.rmtree(place)
    return failed > 0


def start(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "LD_PRELOAD": str(compiled(folder))}
    command = [sys.executable, __file__, *arguments]
    return subprocess.run(command, env=os.environ | environment, capture_output=bool(arguments), text=True)


LONG = ("sso", "5e10", "ENOSPC,EIO,ENOSPC-lasting", "")

if __name__ == "__main__":
    if "write_faults" in os.environ.get("LD_PRELOAD", ""):
        sys.exit(main(*(sys.argv[1:] or LONG)))
    with tempfile.TemporaryDirectory() as place:
        sys.exit(start(Path(place)).returncode)
