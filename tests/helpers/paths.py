"""Where the repository and its parts are."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
HELPERS = TESTS / "helpers"  # modules that tests and their processes import by plain name
RESULTS = ROOT / "results"
DOCS = ROOT / "docs"
