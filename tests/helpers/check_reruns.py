"""False alarms of the gate on clean runs: python tests/helpers/check_reruns.py RUN [SEEDS]

The first SEEDS seeds of a run (16) are the reference; each other seed is checked against them as a run of its own.
Made for a run of 36 seeds: harness run --config results/reference/testbed.yaml --seeds 36 --name reruns
"""

import sys
from pathlib import Path

from harness.regression.gate import Check, check
from harness.regression.reference import MeasuredRun, measure


def reruns(run: MeasuredRun, seeds: int) -> dict[int, Check]:
    """What the gate says of each further seed."""
    reference = run.of_seeds(range(seeds))
    others = sorted(set(next(iter(run.arms.values()))) - set(range(seeds)))
    return {seed: check(run.of_seeds({seed}), reference) for seed in others}


def main() -> None:
    found = reruns(measure(Path(sys.argv[1])), int(sys.argv[2]) if len(sys.argv) > 2 else 16)
    for seed, each in found.items():
        failed = [f"{finding.arm} {finding.name}" for finding in each.findings if not finding.passed]
        print(f"seed {seed}: {each.verdict} in {len(each.findings)} checks {', '.join(failed)}")
    print(f"{sum(not each.passed for each in found.values())} false alarms in {len(found)} clean runs")


if __name__ == "__main__":
    main()
