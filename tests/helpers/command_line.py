"""Calls the command `harness` in this process."""

import contextlib
import io
import sys
from unittest import mock

from harness import cli


def harness(*arguments, cwd, code=0):
    """Runs the command in a folder; what it prints."""
    out, told, ended = io.StringIO(), io.StringIO(), 0
    words = ["harness", *map(str, arguments)]
    with contextlib.chdir(cwd), mock.patch.object(sys, "argv", words):
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(told):
            try:
                cli.main()
            except SystemExit as end:
                ended = end.code or 0
    assert ended == code, told.getvalue()
    return out.getvalue() if code == 0 else told.getvalue()


SMALL = ("--budget", "1.2e11", "--limit", "24", "--name", "small")
