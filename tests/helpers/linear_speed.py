"""GFLOP/s of float32 linear layers by MKL and by oneDNN: python tests/helpers/linear_speed.py [threads]"""

import sys
import time
from collections.abc import Callable
from functools import partial

import torch

from harness.engines.linear import _onednn, onednn_is_faster

SHAPES = ((192, 576), (576, 576), (1536, 576), (49152, 576))  # of SmolLM2-135M
ROWS = (1, 4, 16, 64, 512)
ROUNDS = 5


def seconds(call: Callable[[], object]) -> float:
    """The least of ROUNDS, each of a tenth of a second."""
    call()
    start = time.perf_counter()
    call()
    times = max(1, round(0.1 / (time.perf_counter() - start)))
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(times):
            call()
        best = min(best, (time.perf_counter() - start) / times)
    return best


def main(threads: int) -> None:
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    print(f"oneDNN is used here: {onednn_is_faster()}\nrows | " + " | ".join(f"{n} x {m}" for n, m in SHAPES))
    for rows in ROWS:
        cells = []
        for shape in SHAPES:
            inputs, weight = torch.randn(rows, shape[1]), torch.randn(shape)
            gflop = 2 * rows * weight.numel() / 1e9
            both = [gflop / seconds(partial(f, inputs, weight)) for f in (torch.nn.functional.linear, _onednn)]
            cells.append("{:.0f}, {:.0f}".format(*both))
        print(f"{rows} | " + " | ".join(cells))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
