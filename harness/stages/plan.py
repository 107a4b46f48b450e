"""What a run will cost, before it runs: reads a tokenizer, a configuration and the sizes of tensors, but no weights."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any, TypedDict

from harness.engines.template_files import chat_writer
from harness.errors import UserError
from harness.experiment.options import Experiment
from harness.methods.base import Lengths, Stage
from harness.methods.mixtures import is_mixture, passes
from harness.methods.prompts import PromptStream
from harness.models.folder import TESTBED, base_folder, model_folder, tokenizer_folder
from harness.models.weights import parameter_count
from harness.stages.collect import StagePlan, plan_stage
from harness.training.examples import lora
from harness.types import Chat, Prompt
from harness.work import Cost, Nominal, sampled

SAMPLE = 256  # prompts whose tokens are counted
DEFAULT_COMPLETION = 256  # tokens, for models whose completions were not measured


def measure_lengths(experiment: Experiment, prompts: Sequence[Prompt]) -> Lengths:
    """Expected token counts of prompts and of a typical system message, as the model's own template writes them.

    Raises:
        UserError: when the model's tokenizer or chat template cannot be used.
    """
    folder = model_folder(experiment.model)
    count, _ = token_counter(folder, experiment.model, experiment.day)
    drawn = PromptStream(prompts, 0).take(SAMPLE) if is_mixture(prompts) else prompts[:SAMPLE]
    sample = [prompt.chat for prompt in drawn]
    alone = sum(map(count, sample)) / len(sample)
    if experiment.model == TESTBED:
        measured = json.loads((folder / "testbed.json").read_text())["lengths"]
        return Lengths(alone, measured["system"], float(experiment.completion_tokens or measured["completion"]))
    system = sum(count(chat.instructed("word " * 40)) for chat in sample) / len(sample) - alone
    return Lengths(alone, system, float(experiment.completion_tokens or min(DEFAULT_COMPLETION, experiment.new_tokens)))


def token_counter(folder: Path, name: str, day: date | None) -> tuple[Callable[[Chat], int], Callable[[str], int]]:
    """Return functions that count the tokens of a conversation up to its reply, and of a text.

    Raises:
        UserError: when the folder has no readable tokenizer, or no usable chat template.
    """
    from tokenizers import Tokenizer

    file = tokenizer_folder(folder) / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_buffer(file.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"the tokenizer in {file.parent} cannot be read ({error})") from None
    tokenizer.no_padding()  # a file may hold the settings of another use
    tokenizer.no_truncation()
    writer = chat_writer(folder, name, day)

    def count(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    return lambda chat: count(writer.prompt(chat)), count


class MethodPlan(TypedDict):
    """The plan of one arm, for one seed. epochs: passes over the prompts or pairs; None where they were not read.
    stages: a `StagePlan` each, as a dict."""

    flops: float
    updates: int
    trained_tokens: int
    epochs: float | None
    stages: list[dict[str, Any]]


class TrialsPlan(TypedDict):
    """The plan of a method's trials. options: the tuned options of each trial."""

    flops: float
    options: list[dict[str, Any]]


class TuningPlan(TypedDict):
    """The plan of tuning. flops: of all trials, including the answers to the held-out prompts."""

    trials: int
    prompts: int
    flops: float
    methods: dict[str, TrialsPlan]


class RunPlan(TypedDict):
    """The plan of a run. flops: of all arms and seeds, without tuning."""

    budget: str
    ledger: str
    parameters: int
    seeds: int
    flops: float
    methods: dict[str, MethodPlan]
    tuning: TuningPlan | None


def estimate(experiment: Experiment, prompts: Sequence[Prompt], labelled: Sequence[Prompt]) -> RunPlan:
    """Plan every arm, and tuning where the experiment asks for it.

    Raises:
        UserError: when the budget does not pay for one update of a stage, or a method has nothing to tune.
    """

    @cache
    def lengths(pairs: bool) -> Lengths:
        return measure_lengths(experiment, labelled if pairs else prompts)

    folder = model_folder(experiment.model)
    return plan(
        experiment,
        parameter_count(folder),
        lengths,
        lambda adapters: cost_of(experiment, adapters),
        lambda pairs, number: passes(labelled if pairs else prompts, number),
    )


def cost_of(experiment: Experiment, adapters: Any = None) -> Cost:
    """How FLOPs of the experiment's model are counted, by its rule.

    Args:
        adapters: a LoraConfig of peft where training trains adapters only.

    Raises:
        UserError: when the model is not on this machine, or its FLOPs cannot be counted.
    """
    return _cost_of(experiment.model, experiment, adapters)


def _cost_of(model: str, experiment: Experiment, adapters: Any = None) -> Cost:
    folder = model_folder(model)
    if experiment.ledger == "nominal":
        return Nominal(parameter_count(folder))
    from harness.engines import counting

    return counting.of_folder(base_folder(folder) or folder, adapters, experiment.trust_remote_code)


def judge_cost(experiment: Experiment) -> Cost | None:
    """How FLOPs of the judge are counted; None where its size is not known or it is a program.

    Raises:
        UserError: when the model is not on this machine, or its FLOPs cannot be counted.
    """
    if experiment.judge_engine:
        return _cost_of(experiment.judge_engine, experiment)
    return Nominal(experiment.judge_parameters) if experiment.judge_parameters else None


def plan(
    experiment: Experiment,
    parameters: int,
    lengths: Callable[[bool], Lengths],
    cost: Callable[[Any], Cost],
    passed: Callable[[bool, int], float] | None,
) -> RunPlan:
    """Plan a run as `estimate` does, for a model with this many parameters.

    Args:
        lengths: expected tokens of prompts (False) or of labelled pairs (True).
        cost: counts FLOPs of the model, given the adapters that a stage trains (None where it trains all weights).
        passed: passes over the prompts (False) or over the labelled pairs (True) in so many draws; None where they
            were not read.

    Raises:
        UserError: when the budget does not pay for one update of a stage, or a method has nothing to tune.
    """

    def epochs(stages: list[Stage], plans: list[StagePlan]) -> float | None:
        """Passes over the prompts or over the pairs, whichever is more."""
        drawn = [0, 0]
        for stage, stage_plan in zip(stages, plans, strict=True):
            drawn[stage.labelled] += stage_plan.queries
        return max(passed(bool(labelled), drawn[labelled]) for labelled in (0, 1)) if passed else None

    def planned(name: str, options: Any) -> list[StagePlan]:
        stages = experiment.method(name).stages(options)
        return [
            plan_stage(
                stage,
                experiment.cap,
                lengths(stage.labelled),
                cost(lora(stage.training)),
                judge_cost(experiment) if stage.judged else None,
            )
            for stage in stages
        ]

    methods: dict[str, MethodPlan] = {}
    for name in experiment.arms():
        plans = planned(name, experiment.method_options(name))
        if experiment.tune and plans and not experiment.search_space(name):
            raise UserError(f"{name} declares no options to tune (search_space): leave out {name} or --tune")
        methods[name] = {
            "flops": sum(stage.flops for stage in plans),
            "updates": sum(stage.updates for stage in plans),
            "trained_tokens": sum(stage.trained_tokens for stage in plans),
            "epochs": epochs(experiment.stages(name), plans),
            "stages": [asdict(stage) for stage in plans],
        }
    return {
        "budget": str(experiment.cap),
        "ledger": experiment.ledger,
        "parameters": parameters,
        "seeds": experiment.seeds,
        "flops": experiment.seeds * sum(method["flops"] for method in methods.values()),
        "methods": methods,
        "tuning": _tuning(experiment, planned, cost, lengths(False)) if experiment.tune else None,
    }


def _tuning(
    experiment: Experiment,
    planned: Callable[[str, Any], list[StagePlan]],
    cost: Callable[[Any], Cost],
    lengths: Lengths,
) -> TuningPlan:
    """What the trials will cost. lengths: those of the held-out prompts."""
    answers = cost(None).forward(sampled(lengths.prompt, lengths.completion)) * experiment.tune_prompts
    methods: dict[str, TrialsPlan] = {}
    for name in filter(experiment.tuned, experiment.arms()):
        tried: list[dict[str, Any]] = []
        spent = 0.0
        for number, options in enumerate(experiment.trial_options(name)):
            try:
                spent += sum(stage.flops for stage in planned(name, options)) + answers
            except UserError as error:
                raise UserError(f"{name} trial {number}: {error}") from None
            tried.append({option: getattr(options, option) for option in experiment.tuned(name)})
        methods[name] = {"flops": spent, "options": tried}
    return {
        "trials": experiment.tune,
        "prompts": experiment.tune_prompts,
        "flops": sum(method["flops"] for method in methods.values()),
        "methods": methods,
    }
