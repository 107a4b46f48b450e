"""Memory of a run on this machine: formulas by hand, and a peak that was measured."""

from dataclasses import replace

import pytest

from harness.experiment.options import Experiment
from harness.methods.base import Stage
from harness.runs import cost
from harness.runs.device_speed import ModelSizes
from harness.runs.machine_memory import (
    BASE,
    GIB,
    expected_longest,
    generating_bytes,
    loading_bytes,
    token_counts,
    tokens_at_once,
    training_bytes,
)
from harness.training.examples import ReferenceSync, TrainingOptions
from harness.training.losses import PreferenceObjective

SMALL = ModelSizes(parameters=1000, layers=2, hidden=10, inner=30, kv_bytes=2 * 2 * 2 * 5)  # keys of width 5
SMOLLM2 = ModelSizes(parameters=134_515_008, layers=30, hidden=576, inner=1536, kv_bytes=2 * 2 * 30 * 192)


def stage(objective=None, labelled=True, **options) -> Stage:
    training = TrainingOptions(**{"batch_size": 2, "micro_batch_size": 2} | options)
    return Stage("policy", 1.0, None, None, objective or PreferenceObjective(), training, labelled=labelled)


def test_training_by_hand():
    """The start model, a copy, gradients and two moments: five numbers a parameter. A layer keeps 9 * 10 + 2 * 5 + 4 *
    30 numbers of each of 7 tokens, and masks of 3 * 3 and 4 * 4."""
    kept = 4 * (220 * 7 + 9 + 16)
    assert training_bytes(SMALL, 4, stage(), [3, 4]) - BASE == pytest.approx(4 * 5 * 1000 + 2 * kept)
    checkpointed = training_bytes(SMALL, 4, stage(gradient_checkpointing=True), [3, 4])
    assert checkpointed - BASE == pytest.approx(4 * 5 * 1000 + kept + 4 * 2 * 10 * 7)
    adapters = 4 * (2 * 1000 + 4 * 1 * 2 * 23 * 10)
    assert training_bytes(SMALL, 4, stage(lora_rank=1), [3, 4]) - BASE == pytest.approx(adapters + 2 * kept)
    synced = stage(PreferenceObjective(sync=ReferenceSync(steps=1, mixup=0.5)))
    assert training_bytes(SMALL, 4, synced, [3, 4]) - BASE == pytest.approx(4 * 6 * 1000 + 2 * kept)


def test_generation_by_hand():
    """Weights; keys and values (4 bytes, two layers, two of width 5) of 3 + 1 sequences of 6 tokens; and 4 * 10 + 3 *
    30 numbers of each of the 18 tokens that are read together."""
    assert generating_bytes(SMALL, 2, 3, 6.0) - BASE == pytest.approx((4 * 1000 + 4 * 6 * 80 + 18 * 4 * 130) / 2)
    assert generating_bytes(SMALL, 4, 3, 6.0) - BASE == pytest.approx(4 * 1000 + 4 * 6 * 80 + 18 * 4 * 130)


def test_the_largest_micro_batch():
    """Of 4 draws from 1..10, the largest is expected at the quantile 4/5; of planned examples all are alike."""
    assert expected_longest(range(1, 11), 4) == 8
    assert tokens_at_once(stage(), 4, 999, list(range(1, 11))) == [8, 5.5]
    assert tokens_at_once(stage(labelled=False), 4, 400, [1]) == [100, 100]
    assert tokens_at_once(stage(micro_batch_size=1), 4, 400, []) == [100]


def test_peaks_that_were_measured():
    """SmolLM2-135M on a CPU: a DPO run whose largest micro-batch had 1,935 + 837 tokens took 7.67 GiB (with adapters
    of rank 8: 6.44 GiB), and a run that answered 16 questions of GSM8K with 84 tokens on average 2.21 GiB."""
    assert training_bytes(SMOLLM2, 4, stage(), [1935, 837]) / GIB == pytest.approx(7.67, rel=0.25)
    adapted = training_bytes(SMOLLM2, 4, stage(lora_rank=8), [1935, 837])
    assert adapted / GIB == pytest.approx(6.44, rel=0.25)
    assert generating_bytes(SMOLLM2, 4, 16, 850 + 84) / GIB == pytest.approx(2.21, rel=0.25)


def test_peaks_that_were_measured_in_bfloat16():
    """The same model, 538,090,408 bytes in float32 on disk: a DPO run on single pairs took 3.68 GiB, and a run that
    answered 8 questions of IFEval with at most 128 tokens 1.34 GiB."""
    assert training_bytes(SMOLLM2, 2, stage(), [400]) / GIB == pytest.approx(3.68, rel=0.25)
    loading = loading_bytes(SMOLLM2, 2, 538_090_408)
    assert loading > generating_bytes(SMOLLM2, 2, 8, 250) and loading / GIB == pytest.approx(1.34, rel=0.25)
    assert loading_bytes(SMOLLM2, 4, 538_090_408) - loading_bytes(SMOLLM2, 4, 0) == 0, "nothing is converted"


def test_labelled_rows_are_counted(testbed_model_dir):
    """The plan counts completions of the expected length; memory needs the longest."""
    experiment = Experiment(methods=("sso",), benchmarks=("math",))
    assert token_counts(experiment) == []
    counts = token_counts(replace(experiment, methods=("dpo",)))
    assert len(counts) == 256 and min(counts) > 10
    found = cost.memory_here(
        replace(experiment, methods=("dpo",)),
        cost.shape_of("testbed"),
        cost.planned_run(replace(experiment, methods=("dpo",))),
        cost._lengths(experiment)(False),
        [],
        [],
    )
    assert 0.6 < found["training_gib"] < 1 and 0.6 < found["generating_gib"] < 1 < found["machine_gib"]
    assert found["fits"]
