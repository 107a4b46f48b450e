"""What `harness --version` prints."""

import platform
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer

import harness


def _print_lines(asked: bool) -> None:
    if asked:
        print("\n".join(lines()))
        raise typer.Exit()


Version = Annotated[
    bool,
    typer.Option(
        "--version",
        callback=_print_lines,
        is_eager=True,
        help="Print the versions of harness, Python, torch and transformers, and exit.",
    ),
]


def lines() -> Iterator[str]:
    """The version of harness, with the commit where it is a checkout, and of what it computes with."""
    made = commit(Path(harness.__file__).parents[1])
    yield f"harness {harness.__version__}" + (f" ({made})" if made else "")
    yield f"Python {platform.python_version()}"
    for name in ("torch", "transformers"):
        try:
            yield f"{name} {version(name)}"
        except PackageNotFoundError:
            yield f"{name} is not installed"


def commit(checkout: Path) -> str | None:
    """The commit of a checkout of git, and whether files have changed since; None elsewhere."""
    if not (checkout / ".git").exists():
        return None
    found = _git(checkout, "rev-parse", "HEAD")
    if found is None:
        return None
    changed = _git(checkout, "status", "--porcelain", "--untracked-files=no")
    return f"commit {found}" + (", with changes" if changed else "")


def _git(checkout: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(("git", "-C", checkout, *arguments), capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):  # no git here
        return None
    return done.stdout.strip() if done.returncode == 0 else None
