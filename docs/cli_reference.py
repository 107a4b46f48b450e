"""Writes docs/cli.md, the reference of the command line, from the code: python docs/cli_reference.py."""

import html
import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).with_name("cli.md")


def text() -> str:
    """The page: what `typer ... utils docs` says of every command, as plain markdown."""
    command = [sys.executable, "-m", "typer", "harness.cli", "utils", "docs", "--name", "harness"]
    environment = os.environ | {"TERM": "dumb", "COLUMNS": "120"}
    made = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    plain = re.sub(r"\[/?bold\]", "", html.unescape(made)).replace("# `harness`", "# The command line", 1)
    note = "Made from the code by `python docs/cli_reference.py`; `harness COMMAND --help` says the same."
    return plain.replace("\n\n", f"\n\n{note}\n\n", 1).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(text())
