"""How a stage spends its allowance: draws prompts, collects examples, and stops while training on them still fits.

A stage is sized before it starts (`plan_stage`) and again along the way: the true cost of collecting is known after the
first draw, and the cost of training from the examples, so the last draw ends just below the allowance.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, inf
from pathlib import Path

from harness.budget import Budget, Ledger
from harness.errors import CannotTrain, UserError
from harness.methods.base import Lengths, Stage, Workbench
from harness.training.example_file import ExampleWriter, example_writer
from harness.training.examples import Example
from harness.types import Prompt
from harness.work import Cost

FIRST_DRAW = 0.8  # share of the planned queries: the plan may be wrong, and generated tokens stay spent
NEXT_DRAW = 0.9  # share of the queries that are still possible at the measured cost of a query
CHUNK = 1024  # prompts whose examples are made, and held in memory, at once
MOST_DRAWN = 20  # times the planned queries, where they become too few examples
CLOSE = 0.01  # a stage is full when less than this share of its allowance is left
MOST_PASSED = 100  # given rows that are tried for what is left at the end


class NoExamples(CannotTrain):
    """A stage that made no example to train on."""


@dataclass(frozen=True)
class StagePlan:
    """Expected size and cost of a stage."""

    stage: str
    queries: int
    examples: int
    updates: int
    generate_tokens: int  # read and generated while collecting
    sampled_tokens: int  # the generated ones among them
    reference_tokens: int
    trained_tokens: int
    generate_flops: float  # including those of other models
    reference_flops: float
    train_flops: float
    flops: float


def training_flops(stage: Stage, example: Example, cost: Cost) -> float:
    """FLOPs of training on an example, including the reference's pass over it."""
    work = example.work
    return cost.training(work) + (cost.forward(work) if stage.objective.needs_reference else 0.0)


def plan_stage(stage: Stage, budget: Budget, lengths: Lengths, cost: Cost, judge: Cost | None = None) -> StagePlan:
    """Size a stage under its share of the budget.

    Args:
        cost: counts FLOPs of the model that generates and is trained.
        judge: counts FLOPs of the experiment's judge, where they are known.

    Raises:
        UserError: when the share does not pay for one update.
    """
    query = stage.expect(lengths)
    per_query = query.flops(cost, stage.objective.needs_reference, judge)
    batch = stage.training.batch_size
    if budget.kind == "flops":
        queries = int(stage.share * budget.amount / per_query)
    elif budget.kind == "prompts":
        queries = round(stage.share * budget.amount)
    else:
        queries = ceil(max(1, round(stage.share * budget.amount)) * batch / query.kept)
    examples = int(queries * query.kept)
    if examples < batch:
        unit = batch / query.kept * (per_query if budget.kind == "flops" else 1) / stage.share
        raise UserError(
            f"the budget of {budget} is too small for one update of {batch} examples in stage {stage.name!r}: "
            f"give at least {unit:.3g}, or a smaller batch_size"
        )
    trained = int(examples * query.trained.tokens)
    return StagePlan(
        stage=stage.name,
        queries=queries,
        examples=examples,
        updates=ceil(examples / batch),
        generate_tokens=int(queries * query.collected.tokens),
        sampled_tokens=int(queries * query.collected.generated),
        reference_tokens=trained if stage.objective.needs_reference else 0,
        trained_tokens=trained,
        generate_flops=queries * query.collecting(cost, judge),
        reference_flops=examples * cost.forward(query.trained) if stage.objective.needs_reference else 0.0,
        train_flops=examples * cost.training(query.trained),
        flops=queries * per_query,
    )


def collect_stage(
    stage: Stage,
    workbench: Workbench,
    draw: Callable[[int], list[Prompt]],
    plan: StagePlan,
    budget: Budget,
    allowance: float,
    path: Path,
    cost: Cost,
) -> int:
    """Write the examples of a stage to `path` (`read_examples` reads them), and return how many there are.

    Args:
        draw: returns the next n prompts.
        allowance: FLOPs that this stage may spend, including its training (inf when the budget is not in FLOPs).
        cost: counts FLOPs of the model that is trained.

    Raises:
        NoExamples: when there is no example, or none that the allowance pays for.
    """
    with example_writer(path, lambda example: training_flops(stage, example, cost)) as examples:
        if budget.kind == "flops":
            _within_allowance(stage, workbench, draw, plan, allowance, examples)
        elif budget.kind == "prompts":
            _collect(stage, workbench, draw, plan.queries, examples)
        else:
            _enough(stage, workbench, draw, plan, examples)
        if not len(examples):
            seen = workbench.discarded | workbench.events
            reasons = ", ".join(f"{reason}: {count}" for reason, count in seen.items()) or "no prompts"
            raise NoExamples(
                f"stage {stage.name!r} made no training example ({reasons}): "
                "give a larger budget, longer completions (max_new_tokens) or another model"
            )
        return len(examples)


def _collect(
    stage: Stage, workbench: Workbench, draw: Callable[[int], list[Prompt]], number: int, examples: ExampleWriter
) -> None:
    """Add the examples of the next prompts; those that exceed the model's context are left out and counted."""
    for start in range(0, number, CHUNK):
        made = stage.collect(workbench, draw(min(CHUNK, number - start)))
        context = workbench.engine.context_length
        fitting = [example for example in made if max(map(len, example.sequences)) <= context]
        workbench.discard("longer than the context", len(made) - len(fitting))
        examples.add(fitting)


def _within_allowance(
    stage: Stage,
    workbench: Workbench,
    draw: Callable[[int], list[Prompt]],
    plan: StagePlan,
    allowance: float,
    examples: ExampleWriter,
) -> None:
    start = workbench.ledger.flops

    def used() -> float:
        return workbench.ledger.flops - start + examples.flops

    queries, size, left = 0, max(1, int(FIRST_DRAW * plan.queries)), inf
    while size > 0 and left > CLOSE * allowance:
        _collect(stage, workbench, draw, size, examples)
        queries += size
        left = allowance - used()
        if used():
            size = int(NEXT_DRAW * left / (used() / queries))
        else:  # labelled rows cost nothing, and none has become an example yet
            size = queries if queries <= MOST_DRAWN * plan.queries else 0
    while len(examples) and used() > allowance:
        _drop_last(workbench, examples)
    if workbench.ledger.flops == start:
        _fill(stage, workbench, draw, allowance, examples)


def _fill(
    stage: Stage,
    workbench: Workbench,
    draw: Callable[[int], list[Prompt]],
    allowance: float,
    examples: ExampleWriter,
) -> None:
    """Pass over given rows that cost more than is left, in favour of the next ones that fit: drawing them is free, and
    with few updates the last row would else leave a noticeable share of the budget."""
    for _ in range(MOST_PASSED):
        if allowance - examples.flops <= CLOSE * allowance:
            return
        _collect(stage, workbench, draw, 1, examples)
        if examples.flops > allowance:
            _drop_last(workbench, examples)


def _drop_last(workbench: Workbench, examples: ExampleWriter) -> None:
    examples.keep(len(examples) - 1)
    workbench.discard("beyond the budget")


def _enough(
    stage: Stage, workbench: Workbench, draw: Callable[[int], list[Prompt]], plan: StagePlan, examples: ExampleWriter
) -> None:
    wanted = plan.updates * stage.training.batch_size
    queries = 0
    while len(examples) < wanted and queries <= MOST_DRAWN * plan.queries:
        kept = len(examples) / queries if len(examples) else plan.examples / plan.queries
        size = ceil((wanted - len(examples)) / kept)
        _collect(stage, workbench, draw, size, examples)
        queries += size
    examples.keep(wanted)


def allowances(stages: Sequence[Stage], budget: Budget, ledger: Ledger, index: int) -> float:
    """FLOPs that stage number `index` may spend: its share, and what the stages before it have left."""
    if budget.kind != "flops":
        return inf
    return budget.amount * min(1.0, sum(stage.share for stage in stages[: index + 1])) - ledger.flops
