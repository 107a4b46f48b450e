"""Choose the judge of an experiment: a model behind an endpoint, one in this process, or the testbed's program."""

from pathlib import Path
from typing import Any

from harness.benchmarks.loading import benchmarks_of
from harness.endpoints.limits import Limits, parse_price
from harness.endpoints.log import JudgeLog
from harness.endpoints.wire import endpoint_url
from harness.errors import UserError
from harness.experiment.options import Experiment
from harness.files.folders import RunFolder
from harness.judges.base import Judge
from harness.models import fingerprints
from harness.models.folder import TESTBED, is_classifier, model_folder
from harness.runs.engine_choice import load_reward_model, use_threads


def judge_module(experiment: Experiment) -> str | None:
    """Name of the module of the judge that `load_judge` returns."""
    if experiment.judge_engine:
        return "harness.judges.reward" if judged_by_rewards(experiment) else "harness.judges.engine"
    if experiment.judge_model:
        return "harness.endpoints.client"
    return "harness.testbed.judge" if experiment.data_dir == TESTBED else None


def judged_by_rewards(experiment: Experiment) -> bool:
    """Whether the judge is a reward model, which compares replies and rates none."""
    return experiment.judge_engine is not None and is_classifier(model_folder(experiment.judge_engine))


def only_compares(experiment: Experiment) -> str:
    """Say, in an error, what a reward model cannot do as the judge."""
    return f"{experiment.judge_engine} is a reward model, which can only compare replies"


def described_judge(experiment: Experiment, judge: Judge | None) -> dict[str, Any]:
    """What judgments depend on, by name: the judge's name, its endpoint, or the digests of a model that runs here.
    Empty where there is no judge.

    Args:
        judge: may be None for a judge behind an endpoint, which can be described without a key.
    """
    if experiment.judge_engine:
        named = judge.name if judge else None
        return {"judge": named, "judge model": fingerprints.of_model(model_folder(experiment.judge_engine))}
    if experiment.judge_model:
        return {"judge": experiment.judge_model, "judge endpoint": endpoint_url(experiment.judge_url)}
    return {"judge": judge.name} if judge else {}


def check_judge(experiment: Experiment) -> None:
    """Check that there is a judge for what needs one.

    Raises:
        UserError: when there is none, or it is a reward model and ratings are needed.
    """
    benchmarks = {name: each for name, each in benchmarks_of(experiment).items() if each.needs_judge}
    rated = [name for name, each in benchmarks.items() if not each.compares]
    rated += ["tuning"] * bool(experiment.tune)
    asking = [arm for arm in experiment.arms() if any(stage.judged for stage in experiment.stages(arm))]
    rated += asking
    if rated and judged_by_rewards(experiment):
        taking = [arm for arm in asking if hasattr(experiment.method_options(arm), "reward_model")]
        instead = [f"; --set {arm}.reward_model={experiment.judge_engine} ranks candidates by it" for arm in taking]
        raise UserError(
            f"{', '.join(rated)} need ratings, and {only_compares(experiment)}: leave them out, or give a judge that "
            f"writes text{''.join(instead)}"
        )
    if experiment.judge_engine:
        model_folder(experiment.judge_engine)
    elif load_judge(experiment) is None and (judged := [*dict.fromkeys([*benchmarks, *rated])]):
        raise UserError(
            f"{', '.join(judged)} on real files need a judge: give --judge-model (and --judge-url) or --judge-engine"
        )


def load_judge(experiment: Experiment, root: RunFolder | None = None) -> Judge | None:
    """Load the judge; None when the experiment has none.

    Args:
        root: the run folder, for the judge's log unless the experiment names another place; None keeps no log.
    """
    place = experiment.judge_log or (root.judge_log if root else None)
    log = JudgeLog(Path(place)) if place else None
    if experiment.judge_engine:
        return _local_judge(experiment, experiment.judge_engine, log)
    if experiment.judge_model:
        from harness.endpoints.client import OpenAIJudge

        limits = Limits(
            experiment.judge_concurrency, experiment.judge_rate, experiment.judge_max_calls, experiment.judge_max_cost
        )
        price = parse_price(experiment.judge_price) if experiment.judge_price else None
        return OpenAIJudge(
            experiment.judge_model,
            base_url=experiment.judge_url,
            log=log,
            limits=limits,
            price=price,
            max_tokens=experiment.judge_max_tokens,
            settings=experiment.judge_set,
        )
    if experiment.data_dir == TESTBED:
        from harness.testbed.judge import TestbedJudge

        return TestbedJudge()
    return None


def _local_judge(experiment: Experiment, model: str, log: JudgeLog | None) -> Judge:
    use_threads(experiment)
    folder = model_folder(model)
    name = None if Path(model).is_dir() else model  # a hub id, not a hash
    if judged_by_rewards(experiment):
        from harness.judges.reward import RewardJudge

        return RewardJudge(load_reward_model(experiment, folder), log, name)
    from harness.engines.transformers import TransformersEngine
    from harness.judges.engine import EngineJudge

    engine = TransformersEngine.load(
        str(folder),
        device=experiment.device,
        dtype=experiment.dtype,
        batch_size=experiment.batch_size,
        trust_remote_code=experiment.trust_remote_code,
        day=experiment.day,
    )
    return EngineJudge(engine, log, name=name, max_tokens=experiment.judge_max_tokens)
