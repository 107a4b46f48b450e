"""What a run will cost, before it runs: no weights are loaded, only a tokenizer, a configuration and the sizes of
tensors."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

from harness.engines.template_files import chat_writer
from harness.errors import UserError
from harness.experiment.options import Experiment
from harness.methods.base import Lengths, Stage
from harness.models.folder import TESTBED, base_folder, model_folder, tokenizer_folder
from harness.models.weights import parameter_count
from harness.stages.collect import StagePlan, plan_stage
from harness.training.examples import lora
from harness.types import Chat, Prompt
from harness.work import Cost, Nominal, sampled

SAMPLE = 256  # prompts that are counted
DEFAULT_COMPLETION = 256  # tokens, for models whose completions were not measured


def measure_lengths(experiment: Experiment, prompts: Sequence[Prompt]) -> Lengths:
    """Expected token counts: prompts and a typical system message as the model's own template writes them."""
    folder = model_folder(experiment.model)
    count = _token_counter(folder, experiment.model, experiment.day)
    sample = [prompt.chat for prompt in prompts[:SAMPLE]]
    alone = sum(map(count, sample)) / len(sample)
    if experiment.model == TESTBED:
        measured = json.loads((folder / "testbed.json").read_text())["lengths"]
        return Lengths(alone, measured["system"], float(experiment.completion_tokens or measured["completion"]))
    system = sum(count(chat.instructed("word " * 40)) for chat in sample) / len(sample) - alone
    return Lengths(alone, system, float(experiment.completion_tokens or DEFAULT_COMPLETION))


def _token_counter(folder: Path, name: str, day: date | None) -> Callable[[Chat], int]:
    """Counts the tokens of a conversation that waits for its reply.

    Raises:
        UserError: when the folder has no tokenizer that can be read, or no chat template that takes a conversation.
    """
    from tokenizers import Tokenizer

    file = tokenizer_folder(folder) / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_buffer(file.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"the tokenizer in {file.parent} cannot be read ({error})") from None
    tokenizer.no_padding()  # a file may carry the settings of another use
    tokenizer.no_truncation()
    writer = chat_writer(folder, name, day)
    return lambda chat: len(tokenizer.encode(writer.prompt(chat), add_special_tokens=False).ids)


def estimate(experiment: Experiment, prompts: Sequence[Prompt], labelled: Sequence[Prompt]) -> dict:
    """The plan of every arm: {"budget", "seeds", "methods": {NAME: {"flops", "stages": [...], ...}}, "tuning"}.

    "tuning" is None without it, else {"trials", "prompts", "flops", "methods": {NAME: {"flops", "options": [...]}}},
    its FLOPs those of all trials, answers to the prompts that are kept included.

    Raises:
        UserError: when the budget does not pay for one update of a stage, or a method has nothing to tune.
    """

    @cache
    def lengths(of_pairs: bool) -> Lengths:
        return measure_lengths(experiment, labelled if of_pairs else prompts)

    folder = model_folder(experiment.model)
    known = len(prompts), len(labelled)
    return plan(experiment, parameter_count(folder), lengths, lambda adapters: cost_of(experiment, adapters), known)


def cost_of(experiment: Experiment, adapters: Any = None) -> Cost:
    """FLOPs of the experiment's model, by its rule.

    Args:
        adapters: a LoraConfig of peft, where training trains no more than those.

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
    """FLOPs of the judge, None where its size is not known or it is a program.

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
    known: tuple[int, int] | None,
) -> dict:
    """As `estimate`, for a model with this many parameters.

    Args:
        lengths: of prompts, or of labelled pairs.
        cost: of the model, given the adapters that a stage trains (None where it trains all weights).
        known: how many prompts, and how many labelled pairs there are; None where they were not read.
    """

    def epochs(stages: list[Stage], plans: list[StagePlan]) -> float | None:
        """Passes over the prompts, or over the pairs where those are more."""
        drawn = [0, 0]
        for stage, each in zip(stages, plans, strict=True):
            drawn[stage.labelled] += each.queries
        return max(number / of for number, of in zip(drawn, known, strict=True)) if known else None

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

    methods = {}
    for name in experiment.arms():
        plans = planned(name, experiment.method_options(name))
        if experiment.tune and plans and not experiment.search_space(name):
            raise UserError(f"{name} declares no options to tune (search_space): leave it or --tune out")
        methods[name] = {
            "flops": sum(plan.flops for plan in plans),
            "updates": sum(plan.updates for plan in plans),
            "trained_tokens": sum(plan.trained_tokens for plan in plans),
            "epochs": epochs(experiment.stages(name), plans),
            "stages": [asdict(plan) for plan in plans],
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
) -> dict[str, Any]:
    """What trials will cost. lengths: of the prompts that are kept."""
    answers = cost(None).forward(sampled(lengths.prompt, lengths.completion)) * experiment.tune_prompts
    methods = {}
    for name in filter(experiment.tuned, experiment.arms()):
        tried, spent = [], 0.0
        for number, options in enumerate(experiment.trial_options(name)):
            try:
                spent += sum(each.flops for each in planned(name, options)) + answers
            except UserError as error:
                raise UserError(f"{name} trial {number}: {error}") from None
            tried.append({option: getattr(options, option) for option in experiment.tuned(name)})
        methods[name] = {"flops": spent, "options": tried}
    return {
        "trials": experiment.tune,
        "prompts": experiment.tune_prompts,
        "flops": sum(each["flops"] for each in methods.values()),
        "methods": methods,
    }
