"""Lets `python -m harness` run the command `harness`."""

from harness.cli import main

main()
