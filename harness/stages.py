"""How a stage spends its allowance: draw prompts, collect examples, and stop where training on them still fits.

A stage is sized before it starts (`plan_stage`) and again as it goes: what collecting really costs is known after
the first draw, what training will cost is known from the examples, so the last draw ends just below the allowance.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, inf
from pathlib import Path

from harness.budget import FORWARD_FLOPS, TRAIN_FLOPS, Budget, Ledger
from harness.errors import UserError
from harness.methods import Lengths, Prompt, Stage, Workbench
from harness.training.example_file import ExampleWriter, example_writer

FIRST_DRAW = 0.8  # of the planned queries: the plan may be wrong, and what is generated can not be taken back
NEXT_DRAW = 0.9  # of what the measured cost of a query says is still possible
CHUNK = 1024  # prompts whose examples are made, and held in memory, at once
CLOSE = 0.01  # a stage is full when less than this share of its allowance is left


class NoExamples(UserError):
    """A stage made no example to train on."""


@dataclass(frozen=True)
class StagePlan:
    """Expected size and cost of a stage."""

    stage: str
    queries: int
    examples: int
    updates: int
    generate_tokens: int  # read and generated while collecting
    sampled_tokens: int  # of these, generated
    reference_tokens: int
    trained_tokens: int
    flops: float


def training_flops(stage: Stage, tokens: int, parameters: int) -> float:
    """What training on examples of so many tokens will cost, the reference's pass over them included."""
    a_token = TRAIN_FLOPS + (FORWARD_FLOPS if stage.objective.needs_reference else 0)
    return float(parameters) * a_token * tokens


def plan_stage(stage: Stage, budget: Budget, lengths: Lengths, parameters: int) -> StagePlan:
    """The size of a stage under its share of the budget.

    Raises:
        UserError: when the share does not pay for one update.
    """
    cost = stage.expect(lengths)
    a_query = cost.flops(parameters, stage.objective.needs_reference)
    batch = stage.training.batch_size
    if budget.kind == "flops":
        queries = int(stage.share * budget.amount / a_query)
    elif budget.kind == "prompts":
        queries = round(stage.share * budget.amount)
    else:
        queries = ceil(max(1, round(stage.share * budget.amount)) * batch / cost.kept)
    examples = int(queries * cost.kept)
    if examples < batch:
        unit = batch / cost.kept * (a_query if budget.kind == "flops" else 1) / stage.share
        raise UserError(
            f"the budget of {budget} is too small for one update of {batch} examples in stage {stage.name!r}: "
            f"give at least {unit:.3g}, or a smaller batch_size"
        )
    trained = int(examples * cost.trained)
    return StagePlan(
        stage=stage.name,
        queries=queries,
        examples=examples,
        updates=ceil(examples / batch),
        generate_tokens=int(queries * (cost.read + cost.generated)),
        sampled_tokens=int(queries * cost.generated),
        reference_tokens=trained if stage.objective.needs_reference else 0,
        trained_tokens=trained,
        flops=queries * a_query,
    )


def collect_stage(
    stage: Stage,
    bench: Workbench,
    draw: Callable[[int], list[Prompt]],
    plan: StagePlan,
    budget: Budget,
    allowance: float,
    path: Path,
) -> int:
    """Writes the examples of a stage to `path` (as `read_examples` reads them), and returns how many they are.

    Args:
        draw: gives the next n prompts.
        allowance: FLOPs that this stage may spend, its training included (inf when the budget is not in FLOPs).

    Raises:
        NoExamples: when not one came out, or none that can be paid for.
    """
    with example_writer(path) as examples:
        if budget.kind == "flops":
            _within_allowance(stage, bench, draw, plan, allowance, examples)
        elif budget.kind == "prompts":
            _collect(stage, bench, draw, plan.queries, examples)
        else:
            _enough(stage, bench, draw, plan, examples)
        if not len(examples):
            reasons = ", ".join(f"{reason}: {count}" for reason, count in bench.discarded.items()) or "no prompts"
            raise NoExamples(
                f"stage {stage.name!r} made no training example ({reasons}): "
                "give a larger budget, longer completions (max_new_tokens) or another model"
            )
        return len(examples)


def _collect(
    stage: Stage, bench: Workbench, draw: Callable[[int], list[Prompt]], number: int, examples: ExampleWriter
) -> None:
    """Examples of the next prompts; those that the model could not read whole are left out and counted."""
    for start in range(0, number, CHUNK):
        made = stage.collect(bench, draw(min(CHUNK, number - start)))
        fitting = [each for each in made if max(map(len, each.sequences)) <= bench.engine.context_length]
        bench.discard("longer than the context", len(made) - len(fitting))
        examples.add(fitting)


def _within_allowance(
    stage: Stage,
    bench: Workbench,
    draw: Callable[[int], list[Prompt]],
    plan: StagePlan,
    allowance: float,
    examples: ExampleWriter,
) -> None:
    start, parameters = bench.ledger.flops, bench.engine.parameters

    def used() -> float:
        return bench.ledger.flops - start + training_flops(stage, examples.tokens, parameters)

    queries, size, left = 0, max(1, int(FIRST_DRAW * plan.queries)), inf
    while size > 0 and left > CLOSE * allowance:
        _collect(stage, bench, draw, size, examples)
        queries += size
        left = allowance - used()
        size = int(NEXT_DRAW * left / (used() / queries))
    while len(examples) and used() > allowance:
        examples.keep(len(examples) - 1)
        bench.discard("beyond the budget")


def _enough(
    stage: Stage, bench: Workbench, draw: Callable[[int], list[Prompt]], plan: StagePlan, examples: ExampleWriter
) -> None:
    wanted = plan.updates * stage.training.batch_size
    queries = 0
    while len(examples) < wanted and queries <= 20 * plan.queries:
        kept = len(examples) / queries if len(examples) else plan.examples / plan.queries
        size = ceil((wanted - len(examples)) / kept)
        _collect(stage, bench, draw, size, examples)
        queries += size
    examples.keep(wanted)


def allowances(stages: Sequence[Stage], budget: Budget, ledger: Ledger, index: int) -> float:
    """FLOPs that stage number `index` may spend: its share, and what the stages before it left over."""
    if budget.kind != "flops":
        return inf
    return budget.amount * min(1.0, sum(stage.share for stage in stages[: index + 1])) - ledger.flops
