"""The testbed: a small model made by the project itself, its world, its benchmark suites and its judge."""

from pathlib import Path

MODEL_DIR = Path(__file__).parent / "model"
