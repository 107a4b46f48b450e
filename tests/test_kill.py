"""Runs that are killed at random moments and resumed: the same bytes in the end, and little done twice.

The whole test, as long as wanted: python tests/test_kill.py KILLS [SEED]
"""

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

KILLS = 4  # in the test suite
RUN = ("run", "--method", "sso,dpo", "--budget", "3e11", "--limit", "100", "--name", "killed")
WITH_TIMES = {"seconds.json", "versions.json", "table.md"}  # which two runs do not share


def harness(folder: Path) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "harness", *RUN]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def results(folder: Path) -> dict[str, str]:
    """A digest of every file that the run has left, without the times in it."""
    root = folder / "results/runs/killed"
    return {
        str(path.relative_to(root)): hashlib.sha256(_content(path)).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name not in WITH_TIMES
    }


def _content(path: Path) -> bytes:
    if path.suffix in {".json", ".jsonl"} and "checkpoints" not in path.parts:
        return json.dumps([_timeless(json.loads(line)) for line in _documents(path)]).encode()
    return path.read_bytes()


def _documents(path: Path) -> list[str]:
    text = path.read_text()
    return text.splitlines() if path.suffix == ".jsonl" else [text]


def _timeless(value):
    if isinstance(value, dict):
        return {name: _timeless(each) for name, each in value.items() if "seconds" not in name}
    if isinstance(value, list):
        return [_timeless(each) for each in value]
    return value


def kill_and_resume(folder: Path, kills: int, draw: random.Random, longest: float) -> tuple[int, float]:
    """Kills the run at random moments until it has been killed so often or is finished, then lets it finish.

    Returns: how often it was killed, and seconds in all.
    """
    start, done = time.perf_counter(), 0
    while done < kills:
        process = harness(folder)
        try:
            process.communicate(timeout=draw.uniform(0, longest))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            done += 1
            continue
        assert process.returncode == 0
        break
    process = harness(folder)
    _, told = process.communicate()
    assert process.returncode == 0, told.decode()
    return done, time.perf_counter() - start


def test_killed_runs_end_with_the_same_bytes(tmp_path, testbed_model_dir):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    start = time.perf_counter()
    assert harness(tmp_path / "a").wait() == 0
    undisturbed = time.perf_counter() - start
    kill_and_resume(tmp_path / "b", KILLS, random.Random(0), undisturbed)
    assert results(tmp_path / "a") == results(tmp_path / "b")


def main() -> None:
    kills, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    place = Path(tempfile.mkdtemp(prefix="kills-"))
    draw = random.Random(seed)
    (place / "a").mkdir()
    start = time.perf_counter()
    assert harness(place / "a").wait() == 0
    undisturbed = time.perf_counter() - start
    expected, killed, rounds = results(place / "a"), 0, 0
    while killed < kills:
        folder = place / f"b{rounds}"
        folder.mkdir()
        done, seconds = kill_and_resume(folder, min(10, kills - killed), draw, undisturbed)
        killed, rounds = killed + done, rounds + 1
        different = {name for name, _ in results(folder).items() ^ expected.items()} or "none"
        print(f"killed {done} times: {seconds:.0f} s, {undisturbed:.0f} s undisturbed; different: {different}")
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
