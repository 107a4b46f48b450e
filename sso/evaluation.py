"""Held-out rows: pairs that somebody labelled, or prompts that become examples as those of training do."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from harness.budget import Ledger
from harness.engines.base import Sampling, TrainableEngine
from harness.engines.logprobs import attend_packed
from harness.engines.transformers import TransformersEngine
from harness.errors import UserError
from harness.methods.base import Stage, Workbench
from harness.stages.train import HeldOut
from harness.training.dataset import build_data
from harness.training.evaluation import Evaluation, evaluate
from harness.training.examples import Example, TokenSequence
from harness.training.losses import PreferenceObjective
from harness.training.reference import reference_logprobs
from harness.types import Prompt
from sso.options import LossOptions

NAMES = {"margin": "rewards/margins", "accuracy": "rewards/accuracies"}  # what TRL calls our values


def check_alike(prompts: Sequence[Prompt]) -> None:
    """
    Raises:
        UserError: when only some rows are labelled pairs.
    """
    labelled = [prompt for prompt in prompts if prompt.chosen is not None]
    if labelled and len(labelled) < len(prompts):
        raise UserError(
            f"eval_dataset has {len(labelled)} rows with chosen and rejected, and {len(prompts) - len(labelled)} "
            "without, which are different evaluations: give one kind"
        )


def held_out(
    stage: Stage, engine: TrainableEngine, prompts: Sequence[Prompt], options: LossOptions, sampling: Sampling
) -> HeldOut:
    """The examples of held-out rows, and what is computed on them.

    Labelled pairs are read under the prompt x alone, and have the base loss, in every stage. Prompts become examples
    as those of training do, and have the stage's own loss.

    Args:
        engine: generates responses to prompts.

    Raises:
        UserError: when no row can be used.
    """
    ledger = Ledger(None, rule="needed")
    workbench = Workbench(engine, ledger, sampling, f"{stage.name}-evaluation", label="evaluation")
    if prompts[0].chosen is None:
        examples, objective = stage.collect(workbench, prompts), stage.objective
    else:
        examples, objective = _labelled(workbench, prompts), PreferenceObjective(**options.base_loss)
    fitting = [example for example in examples if max(map(len, example.sequences)) <= engine.context_length]
    workbench.discard("longer than the context", len(examples) - len(fitting))
    if not fitting:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in workbench.discarded.items())
        raise UserError(f"eval_dataset has no row that stage {stage.name!r} can evaluate ({reasons}): give others")
    return HeldOut(fitting, objective, ledger)


def evaluate_policy(
    policy: TransformersEngine, reference: TransformersEngine, held_out: HeldOut, batch_size: int
) -> dict[str, float]:
    """Loss and metrics of a policy on held-out examples: means over all of them."""
    objective, compared = held_out.objective, None
    with tempfile.TemporaryDirectory(prefix="sso-") as folder:
        data = build_data(held_out.examples, Path(folder) / "rows.arrow", objective.sequences, policy.context_length)
        if objective.needs_reference:
            compared = reference_logprobs(reference, data, held_out.ledger)
        evaluation = Evaluation(data, objective, compared)
        with attend_packed(policy.model, policy.reading):
            return evaluate(policy.model, evaluation, policy.reading, batch_size, policy.device)


def _labelled(workbench: Workbench, prompts: Sequence[Prompt]) -> list[Example]:
    examples = []
    for prompt in prompts:
        query, replies = workbench.engine.encode_replies(prompt.chat, prompt.pair)
        if replies[0] == replies[1]:
            workbench.discard("equal responses")
            continue
        examples.append(Example(prompt.id, tuple(TokenSequence(query, reply) for reply in replies)))
    return examples
