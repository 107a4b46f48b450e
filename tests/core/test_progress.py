import os
import pty
import re
import subprocess
import sys

import pytest
from paths import ROOT

from harness import progress as module
from harness.progress import PLAIN_VARIABLE, progress

WORK = """
import sys, time
from harness.progress import progress
with progress("answer [sso]", 4) as advance:
    for _ in range(4):
        time.sleep(0.05 + float(sys.argv[1]) / 4)
        advance(1)
"""


def on_a_terminal(seconds: float = 0.0, **variables: str) -> str:
    """What the work prints to a terminal, without the codes that move the cursor and colour."""
    controller, terminal = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "120", **variables}
    ends = {"stdin": terminal, "stdout": terminal, "stderr": terminal}
    work = subprocess.Popen([sys.executable, "-c", WORK, str(seconds)], env=environment, **ends)
    os.close(terminal)
    printed = b""
    try:
        while part := os.read(controller, 4096):
            printed += part
    except OSError:  # how Linux says that the other side is closed
        pass
    os.close(controller)
    assert work.wait(timeout=60) == 0
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", printed.decode())


class Clock:
    """Stands in for `time.monotonic`: moves when told."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_plain_lines_where_there_is_no_terminal(clock, capsys):
    with progress("sso: train", 40) as advance:
        clock.now += 4
        advance(8)  # too early for a line
        clock.now += 6
        advance(12)
        clock.now += 10
        advance(20)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "sso: train: 20/40 (2.0/s, 10 s left)",
        "sso: train: 40/40 (2.0/s, 0 s left)",
        "sso: train: 40 in 20.0 s",
    ]


def test_plain_lines_without_a_total(clock, capsys):
    with progress("judge", None) as advance:
        clock.now += 20
        advance(10)
    assert capsys.readouterr().err.splitlines() == ["judge: 10/? (0.5/s)", "judge: 10 in 20.0 s"]


def test_an_error_in_the_work_is_passed_on(capsys):
    with pytest.raises(KeyError), progress("work", 3):
        raise KeyError("x")
    assert " in " not in capsys.readouterr().err  # no claim that it finished


def test_a_bar_on_a_terminal():
    shown = on_a_terminal()
    assert "answer [sso]" in shown
    assert "━" in shown
    assert "4/4" in shown
    assert re.search(r"\d+\.\d/s", shown)
    assert not re.search(r"4 in \d+\.\d s", shown)  # it took less than a second


def test_plain_lines_on_a_terminal_that_processes_share():
    assert re.fullmatch(r"answer \[sso\]: 4 in 1\.\d s\s*", on_a_terminal(1.0, **{PLAIN_VARIABLE: "1"}))
    assert on_a_terminal(**{PLAIN_VARIABLE: "1"}).strip() == ""
