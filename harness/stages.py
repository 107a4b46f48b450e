"""How a stage spends its allowance: draw prompts, collect examples, and stop where training on them still fits.

A stage is sized before it starts (`plan_stage`) and again as it goes: what collecting really costs is known after
the first draw, what training will cost is known from the examples, so the last draw ends just below the allowance.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, inf

from harness.budget import FORWARD_FLOPS, TRAIN_FLOPS, Budget, Ledger
from harness.errors import UserError
from harness.methods import Lengths, Prompt, Stage, Workbench
from harness.training.examples import Example

FIRST_DRAW = 0.8  # of the planned queries: the plan may be wrong, and what is generated can not be taken back
NEXT_DRAW = 0.9  # of what the measured cost of a query says is still possible
CLOSE = 0.01  # a stage is full when less than this share of its allowance is left


@dataclass(frozen=True)
class StagePlan:
    """Expected size and cost of a stage."""

    stage: str
    queries: int
    examples: int
    updates: int
    generate_tokens: int  # read and generated while collecting
    reference_tokens: int
    trained_tokens: int
    flops: float


def training_flops(stage: Stage, examples: Sequence[Example], parameters: int) -> float:
    """What training on the examples will cost, the reference's pass over them included."""
    a_token = TRAIN_FLOPS + (FORWARD_FLOPS if stage.objective.needs_reference else 0)
    return float(parameters) * a_token * sum(example.tokens for example in examples)


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
) -> list[Example]:
    """The examples of a stage.

    Args:
        draw: gives the next n prompts.
        allowance: FLOPs that this stage may spend, its training included (inf when the budget is not in FLOPs).

    Raises:
        UserError: when not one example came out, or none that can be paid for.
    """
    if budget.kind == "flops":
        examples = _within_allowance(stage, bench, draw, plan, allowance)
    elif budget.kind == "prompts":
        examples = _collect(stage, bench, draw(plan.queries))
    else:
        examples = _enough(stage, bench, draw, plan)
    if not examples:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in bench.discarded.items()) or "no prompts"
        raise UserError(
            f"stage {stage.name!r} made no training example ({reasons}): "
            "give a larger budget, longer completions (max_new_tokens) or another model"
        )
    return examples


def _collect(stage: Stage, bench: Workbench, prompts: Sequence[Prompt]) -> list[Example]:
    """Examples of these prompts; those that the model could not read whole are left out and counted."""
    examples = stage.collect(bench, prompts)
    fitting = [each for each in examples if max(map(len, each.sequences)) <= bench.engine.context_length]
    for _ in range(len(examples) - len(fitting)):
        bench.discard("longer than the context")
    return fitting


def _within_allowance(
    stage: Stage, bench: Workbench, draw: Callable[[int], list[Prompt]], plan: StagePlan, allowance: float
) -> list[Example]:
    start, parameters = bench.ledger.flops, bench.engine.parameters
    examples: list[Example] = []
    queries, size, left = 0, max(1, int(FIRST_DRAW * plan.queries)), inf
    while size > 0 and left > CLOSE * allowance:
        examples += _collect(stage, bench, draw(size))
        queries += size
        used = bench.ledger.flops - start + training_flops(stage, examples, parameters)
        left = allowance - used
        size = int(NEXT_DRAW * left / (used / queries))
    while examples and bench.ledger.flops - start + training_flops(stage, examples, parameters) > allowance:
        examples.pop()
        bench.discard("beyond the budget")
    return examples


def _enough(stage: Stage, bench: Workbench, draw: Callable[[int], list[Prompt]], plan: StagePlan) -> list[Example]:
    wanted = plan.updates * stage.training.batch_size
    examples: list[Example] = []
    queries = 0
    while len(examples) < wanted:
        kept = len(examples) / queries if examples else plan.examples / plan.queries
        size = ceil((wanted - len(examples)) / kept)
        examples += _collect(stage, bench, draw(size))
        queries += size
        if queries > 20 * plan.queries:
            break
    return examples[:wanted]


def allowances(stages: Sequence[Stage], budget: Budget, ledger: Ledger, index: int) -> float:
    """FLOPs that stage number `index` may spend: its share, and what the stages before it left over."""
    if budget.kind != "flops":
        return inf
    return budget.amount * min(1.0, sum(stage.share for stage in stages[: index + 1])) - ledger.flops
