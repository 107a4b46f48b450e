"""Resampled questions, for measures whose error has no formula."""

from functools import lru_cache
from typing import Any

import numpy as np

DRAWS = 10_000
CHUNK = 4_000_000  # cells of a resampling matrix that are in memory at once


@lru_cache(maxsize=2)
def resamples(questions: int, draws: int, rng_seed: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """How often each question occurs in each resample, (draws, questions). No count reaches 256: with more than 255
    questions that has a probability below 1e-500."""
    rng = np.random.default_rng(rng_seed)
    counts: np.ndarray[Any, np.dtype[np.uint8]] = np.empty((draws, questions), dtype=np.uint8)
    step = max(1, CHUNK // questions)
    for start in range(0, draws, step):
        rows = min(step, draws - start)
        picked = rng.integers(0, questions, (rows, questions)) + questions * np.arange(rows)[:, None]
        counts[start : start + rows] = np.bincount(picked.ravel(), minlength=rows * questions).reshape(rows, questions)
    counts.flags.writeable = False
    return counts
