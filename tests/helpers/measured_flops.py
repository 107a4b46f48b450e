"""FLOPs of a run by torch's flop counter beside its ledger: python tests/helpers/measured_flops.py METHODS [OPTIONS]

A line for each arm and role: what the counter saw, over what was charged, and over that and what was booked as wasted.
The counter sees every matrix product of a forward or backward pass, those of masked pairs of attention included, whose
kernels' share of all it saw stands last.
"""

import json
import sys
import tempfile
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

from harness import cli
from harness.methods import base as methods
from harness.perf.flops import counted as counted_flops
from harness.stages import train as pipeline
from harness.training import reference, trainer

counted: Counter[tuple[str, str]] = Counter()
attention: Counter[tuple[str, str]] = Counter()


@contextmanager
def counting(arm: str, role: str):
    with counted_flops() as counter:
        yield
    counted[arm, role] += counter.get_total_flops()
    operations = counter.get_flop_counts().get("Global", {})
    attention[arm, role] += sum(flops for name, flops in operations.items() if "attention" in str(name))


def counted_under(function, role_of):
    def call(*args, **kwargs):
        arm, role = role_of(*args, **kwargs)
        with counting(arm, role):
            return function(*args, **kwargs)

    return call


def main() -> None:
    named, *options = sys.argv[1:]
    label = {}

    def collected(*args, **kwargs):
        label["arm"] = args[-2].label
        return collect(*args, **kwargs)

    def trained(stage, start, facts, ledger, setup, depends_on):
        label["arm"] = setup.label
        return train_stage(stage, start, facts, ledger, setup, depends_on)

    collect, train_stage = pipeline._collect, pipeline._train
    pipeline._collect, pipeline._train = collected, trained
    for name in ("sample", "score"):
        function = getattr(methods.Workbench, name)
        setattr(
            methods.Workbench, name, counted_under(function, lambda workbench, role, *_, **__: (label["arm"], role))
        )
    trainer.train = counted_under(trainer.train, lambda *_, **__: (label["arm"], "train"))
    reference.reference_logprobs = counted_under(
        reference.reference_logprobs, lambda *_, **__: (label["arm"], "reference")
    )
    with tempfile.TemporaryDirectory() as folder:
        sys.argv = ["harness", "run", "--method", named, "--benchmark", "math", "--limit", "2", *options]
        sys.argv += ["--results", folder, "--name", "measured"]
        try:
            cli.main()
        except SystemExit as end:
            if end.code:
                raise
        ledgers = {file.parent.name: json.loads(file.read_text()) for file in Path(folder).rglob("arms/*/ledger.json")}
    print("arm, role, charged, real / charged, real / (charged + wasted), attention's share of real")
    for (arm, role), real in sorted(counted.items()):
        spent = ledgers[arm.replace(" seed ", "-seed")]["roles"][role]
        ratios = real / spent["flops"], real / (spent["flops"] + spent["wasted_flops"]), attention[arm, role] / real
        print(f"{arm:24} {role:12} {spent['flops']:10.3g}", *(f"{ratio:8.3f}" for ratio in ratios))


if __name__ == "__main__":
    main()
