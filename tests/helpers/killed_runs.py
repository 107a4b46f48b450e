"""Runs that are killed at random moments and resumed: the same bytes in the end, and little done twice.

A whole experiment, as often as wanted: python tests/helpers/killed_runs.py KILLS [SEED]
"""

import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

NAME = "killed"
WHOLE = ("--method", "sso,dpo,ipo,self-rewarding,pbaa", "--seeds", "3")
WITH_TIMES = {"seconds.json", "table.md"}  # files that two runs do not share
START, END = "start-up", "end"
LOOK = 0.002  # seconds between two looks at what a run has done


@dataclass(frozen=True)
class Row:
    """Work that begins, as counted_run.py writes it down; END where the process ended."""

    time: float
    step: str
    phase: str
    flops: float
    calls: int


class Run:
    """A folder with a run, and beside it the count of the work of all its processes."""

    def __init__(self, folder: Path, options: tuple[str, ...]):
        folder.mkdir()
        self.folder, self._options, self._count = folder, options, folder / "count.jsonl"
        self._count.touch()

    def start(self) -> subprocess.Popen:
        script = Path(__file__).with_name("counted_run.py")
        command = [sys.executable, str(script), str(self._count), "run", *self._options, "--name", NAME]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        with open(self.folder / "told.txt", "ab") as told:
            return subprocess.Popen(command, cwd=self.folder, env=environment, stdout=subprocess.DEVNULL, stderr=told)

    def finish(self) -> None:
        code = self.start().wait()
        assert code == 0, (self.folder / "told.txt").read_text()
        self._end()

    def kill(self, moment: "Moment", order: dict[str, int]) -> str | None:
        """Goes on with the run until the moment. Returns the phase that was hit, or None if the run finished before."""
        written = self._count.stat().st_size
        process = self.start()
        for row in self._follow(process, written):
            if moment.reached(row, order):
                try:
                    process.wait(moment.delay)
                except subprocess.TimeoutExpired:
                    process.kill()
                break
        code = process.wait()
        assert code in (0, -9), (self.folder / "told.txt").read_text()
        hit = self.rows()[-1].phase
        self._end()
        return hit if code else None

    def _follow(self, process: subprocess.Popen, written: int) -> Iterator[Row]:
        """Rows of a running process, as they come; `written` bytes were there before."""
        with open(self._count, "rb") as file:
            file.seek(written)
            while process.poll() is None:
                line = file.readline()
                if line.endswith(b"\n"):
                    yield Row(**json.loads(line))
                else:  # nothing, or a line that is being written
                    file.seek(-len(line), os.SEEK_CUR)
                    time.sleep(LOOK)

    def _end(self) -> None:
        with open(self._count, "a") as file:
            file.write(json.dumps(vars(Row(time.monotonic(), END, END, 0.0, 0))) + "\n")

    def rows(self) -> list[Row]:
        return [Row(**json.loads(line)) for line in self._count.read_text().splitlines()]

    def results(self) -> dict[str, str]:
        """A digest of every file that the run has left, without the times in it."""
        root = self.folder / "results/runs" / NAME
        return {
            str(path.relative_to(root)): hashlib.sha256(content_without_times(path)).hexdigest()
            for path in sorted(root.rglob("*"))
            if path.is_file() and path.name not in WITH_TIMES
        }


def content_without_times(path: Path) -> bytes:
    if path.suffix in {".json", ".jsonl"} and "checkpoints" not in path.parts:
        return json.dumps([_timeless(json.loads(line)) for line in _documents(path)]).encode()
    return path.read_bytes()


def _documents(path: Path) -> list[str]:
    text = path.read_text()
    return text.splitlines() if path.suffix == ".jsonl" else [text]


def _timeless(value):
    if isinstance(value, dict):
        # marks hold times, so their digests in the index differ
        return {name: _timeless(each) for name, each in value.items() if not re.search("seconds|/steps/", name)}
    if isinstance(value, list):
        return [_timeless(each) for each in value]
    return value


@dataclass(frozen=True)
class Moment:
    """When to kill: `delay` seconds after the first row of a step (its number) and phase, or of a later step."""

    step: int
    phase: str | None
    delay: float

    def reached(self, row: Row, order: dict[str, int]) -> bool:
        step = order[row.step]
        return step > self.step or (step == self.step and self.phase in (None, row.phase))


def step_order(rows: list[Row]) -> dict[str, int]:
    return {step: number for number, step in enumerate(dict.fromkeys(row.step for row in rows))}


def draw_moments(rows: list[Row], kills: int, draw: random.Random) -> list[Moment]:
    """One moment in each phase, for up to half of the kills, and the others at any time after start-up and before the
    last step, which a resumed run may have ended sooner.

    Args:
        rows: of the undisturbed run. Its times tell how far into a step a moment is; a step that has been resumed has
            the rest of that before it.
    """
    order, begins = step_order(rows), {}
    for row in rows:
        begins.setdefault(row.step, row.time)
    spans = list(pairwise(rows))[:-1]  # the last is the process after its work
    phases = sorted({row.phase for row, _ in spans})
    drawn = []  # time in the undisturbed run, step, phase, delay
    for phase in draw.sample(phases, min(len(phases), kills // 2)):
        row, after = draw.choice([span for span in spans if span[0].phase == phase])
        drawn.append((row.time, row.step, phase, draw.uniform(0, (after.time - row.time) / 2)))
    for _ in range(kills - len(drawn)):
        moment = draw.uniform(spans[0][1].time, begins[spans[-1][0].step])
        row = next(row for row, after in spans if moment <= after.time)
        drawn.append((moment, row.step, None, 0.0))
    drawn.sort()
    moments, before = [], (0.0, "")
    for moment, step, phase, delay in drawn:
        if phase is None:
            delay = moment - (before[0] if before[1] == step else begins[step])
            before = (moment, step)
        moments.append(Moment(order[step], phase, delay))
    if moments[0].phase == START:  # of any start
        moments.insert(draw.randrange(len(moments)), moments.pop(0))
    return moments


def kill_and_resume(run: Run, undisturbed: Run, kills: int, draw: random.Random) -> Counter[str]:
    """Kills a run so often, unless it ends before, and lets it finish. Returns the number of kills by phase."""
    rows, hits = undisturbed.rows(), Counter()
    for moment in draw_moments(rows, kills, draw):
        if (phase := run.kill(moment, step_order(rows))) is None:
            break
        hits[phase] += 1
    run.finish()
    return hits


def spent(run: Run) -> dict[str, Counter[str]]:
    """FLOPs, requests to the judge and seconds by phase, over all processes of a run."""
    sums = {"flops": Counter(), "calls": Counter(), "seconds": Counter()}
    for row, after in pairwise(run.rows()):
        if row.phase != END:
            sums["flops"][row.phase] += row.flops
            sums["calls"][row.phase] += row.calls
            sums["seconds"][row.phase] += after.time - row.time
    return sums


def done_twice(run: Run, undisturbed: Run) -> float:
    """FLOPs that were done again, as a share of those of the undisturbed run."""
    return spent(run)["flops"].total() / spent(undisturbed)["flops"].total() - 1


def differences(run: Run, undisturbed: Run) -> set[str]:
    """Files that are not the same in both."""
    return {name for name, _ in run.results().items() ^ undisturbed.results().items()}


def main() -> None:
    kills, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    place = Path(tempfile.mkdtemp(prefix="kills-"))
    undisturbed, killed = Run(place / "a", WHOLE), Run(place / "b", WHOLE)
    undisturbed.finish()
    hits = kill_and_resume(killed, undisturbed, kills, random.Random(seed))
    print(f"{'phase':10}{'kills':>6}{'FLOPs':>11}{'twice %':>9}{'calls':>8}{'twice':>7}{'seconds':>9}{'more':>8}")
    before, after = spent(undisturbed), spent(killed)
    for sums in (hits, *before.values(), *after.values()):
        sums["all"] = sums.total()
    for phase in before["seconds"]:
        flops, calls, seconds = (sums[phase] for sums in before.values())
        more_flops, more_calls, more_seconds = (after[name][phase] - before[name][phase] for name in before)
        twice = f"{100 * more_flops / flops:.2f}" if flops else "-"
        print(
            f"{phase:10}{hits[phase]:6}{flops:11.3g}{twice:>9}{calls:8}{more_calls:7}{seconds:9.1f}{more_seconds:8.1f}"
        )
    print(f"files that differ: {', '.join(sorted(differences(killed, undisturbed))) or 'none'}")
    shutil.rmtree(place)


if __name__ == "__main__":
    main()
