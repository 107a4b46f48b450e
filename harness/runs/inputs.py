"""What the arms of an experiment share: model, prompts, benchmark files and judge, read and checked."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cache, cached_property
from pathlib import Path

from harness.benchmarks.base import Questions, Settings
from harness.benchmarks.loading import benchmarks_of, load_benchmark
from harness.benchmarks.questions import load_questions
from harness.endpoints.limits import Limits
from harness.endpoints.log import JudgeLog
from harness.engines.base import Engine
from harness.errors import UserError
from harness.experiment import registry
from harness.experiment.options import Experiment
from harness.files import sources, store
from harness.files.extras import EXTRAS, check_installed
from harness.files.folders import RunFolder
from harness.files.urls import public_url
from harness.judges.base import Judge
from harness.methods import prompts
from harness.methods.mixtures import mix, parse_sources
from harness.models import fingerprints
from harness.models.folder import TESTBED, is_classifier, model_folder
from harness.models.weights import check_files
from harness.runs.development import PromptSplit, split
from harness.runs.engine_choice import chosen, load_engine, load_reward_model, use_threads
from harness.runs.judge_choice import check_judge, judge_module, load_judge
from harness.runs.processes import check_launch_command
from harness.stages import fitting
from harness.stages.plan import estimate
from harness.training.tracking import check_tracker
from harness.types import Prompt


@dataclass
class Inputs:
    """What the arms of an experiment share.

    root: the run folder; None where nothing may be written.
    """

    experiment: Experiment
    prompts: Sequence[Prompt]
    labelled: Sequence[Prompt]
    data_dir: Path
    judge: Judge | None
    root: RunFolder | None = None
    _questions: dict[tuple[str, Settings], Questions] = field(default_factory=dict)

    @cached_property
    def base(self) -> Engine:
        """The model that the experiment starts from, loaded on first use."""
        return load_base(self.experiment, self.root)

    @cached_property
    def model(self) -> dict[str, str]:
        return model_digests(self.experiment)

    def questions(self, benchmark: str, settings: Settings) -> Questions:
        """The questions of a benchmark, read once for all arms that ask the same."""
        if (benchmark, settings) not in self._questions:
            self._questions[benchmark, settings] = load_questions(
                self.experiment.targets("benchmark")[benchmark], self.data_dir, settings
            )
        return self._questions[benchmark, settings]

    @cached_property
    def development(self) -> Sequence[Prompt]:
        """The prompts that trials of tuning are scored on, held out from prompts and pairs."""
        return _split_prompts(self.experiment).development

    @cached_property
    def prompts_digest(self) -> str:
        return store.digest([prompt.content for prompt in self.prompts])

    @cached_property
    def answers_digest(self) -> str:
        return store.digest([prompt.answer for prompt in self.prompts])

    @cached_property
    def labelled_digest(self) -> str:
        return store.digest([prompt.content for prompt in self.labelled])


def check_inputs(experiment: Experiment) -> None:
    """Read prompts and benchmark files and plan the budget, so that mistakes show before anything is spent.

    What needs PyTorch comes last: importing it takes longer than all the rest.

    Raises:
        UserError: when the run could not use a file, the judge or the budget.
    """
    check_tracker(experiment.report_to)
    _check_packages(experiment)
    if experiment.model_url:
        _check_endpoint(experiment)
    else:
        chosen(experiment)
        check_files(model_folder(experiment.model), experiment.model)
        load_prompts(experiment)
    check_judge(experiment)
    if experiment.data_dir != TESTBED:
        for name, target in experiment.targets("benchmark").items():
            load_questions(target, Path(experiment.data_dir), Settings(options=experiment.benchmark_options(name)))
        _check_training_data(experiment)
    check_launch_command(experiment)
    if not experiment.model_url:
        _check_model(experiment)
        estimate(experiment, *load_prompts(experiment))


def _check_packages(experiment: Experiment) -> None:
    """Refuse what an extra of the installation is missing for before anything is spent."""
    for name, benchmark in benchmarks_of(experiment).items():
        module = sources.Roots((type(benchmark).__module__,))
        check_installed(f"benchmark {name}", [each for each in EXTRAS if sources.imports(each, module)])
    if judge := judge_module(experiment):
        module = sources.Roots((judge,))
        check_installed("this judge", [each for each in EXTRAS if sources.imports(each, module)])


def _check_model(experiment: Experiment) -> None:
    from harness.engines.loading import choose_device

    choose_device(experiment.device)
    if not is_classifier(model_folder(experiment.model)):
        return
    need_text = [name for name, each in benchmarks_of(experiment).items() if not each.scores_classifiers]
    if experiment.arms() != ("base",) or need_text:
        fitting = [name for name in registry.names("benchmark") if load_benchmark(name).scores_classifiers]
        raise UserError(
            f"{experiment.model} is a sequence classifier and cannot write text: score it with "
            f"harness eval {experiment.model} --benchmark {','.join(fitting)}"
        )


def _check_endpoint(experiment: Experiment) -> None:
    if need := [name for name, each in benchmarks_of(experiment).items() if each.needs_logprobs]:
        others = ",".join(name for name in experiment.benchmark_names() if name not in need) or "OTHERS"
        raise UserError(
            f"{', '.join(need)} needs log-probabilities of given texts, which an endpoint does not return: "
            f"leave it out (--benchmark {others}), or score the model itself, without --model-url"
        )


def _check_training_data(experiment: Experiment) -> None:
    """Refuse real benchmarks while the training data default to the testbed's."""
    for method in experiment.arms():
        for stage in experiment.stages(method):
            option = "preferences" if stage.labelled else "prompts"
            if getattr(experiment, option) == TESTBED:
                raise UserError(f"{method} on real benchmarks needs training data: give --{option} FILE")


def load_inputs(experiment: Experiment, root: RunFolder) -> Inputs:
    """Load prompts, benchmark files (writing the testbed's) and judge of an experiment."""
    folder = data_folder(experiment, root.path)
    if experiment.data_dir == TESTBED:
        from harness.testbed.suites import write_suites

        write_suites(folder)
    return Inputs(experiment, *load_prompts(experiment), folder, load_judge(experiment, root), root)


def model_digests(experiment: Experiment) -> dict[str, str]:
    """Digests of the parts of the start model; for a model behind an endpoint, its address and name."""
    if experiment.model_url:
        return {"endpoint": public_url(experiment.model_url), "name": experiment.model}
    return fingerprints.of_model(model_folder(experiment.model))


def load_base(experiment: Experiment, root: RunFolder | None = None) -> Engine:
    """Load the model that an experiment starts from.

    Args:
        root: the run folder, for the log of a model behind an endpoint; None keeps no log.
    """
    if experiment.model_url:
        return _endpoint(experiment, root)
    use_threads(experiment)
    folder = model_folder(experiment.model)
    if is_classifier(folder):
        return load_reward_model(experiment, folder)
    base = load_engine(experiment, folder)
    if any(experiment.stages(arm) for arm in experiment.arms()):
        from harness.engines.saving import check_saveable

        check_saveable(base.local.model, base.local.tokenizer, experiment.model)
    return base


def _endpoint(experiment: Experiment, root: RunFolder | None) -> Engine:
    from harness.endpoints.client import OpenAIJudge
    from harness.engines.endpoint import EndpointEngine

    limits = Limits(experiment.judge_concurrency, experiment.judge_rate)
    log = JudgeLog(root.model_log) if root else None
    client = OpenAIJudge(experiment.model, experiment.model_url, log=log, limits=limits, role="model", keep_cut=True)
    return EndpointEngine(client, experiment.batch_size)


def load_prompts(experiment: Experiment) -> tuple[Sequence[Prompt], Sequence[Prompt]]:
    """Training prompts and labelled pairs of an experiment, without those that are held out for tuning."""
    if not experiment.tune:
        return _given_prompts(experiment)
    found = _split_prompts(experiment)
    return found.prompts, found.labelled


def _split_prompts(experiment: Experiment) -> PromptSplit:
    return split(experiment, *_given_prompts(experiment))


def _given_prompts(experiment: Experiment) -> tuple[Sequence[Prompt], Sequence[Prompt]]:
    if TESTBED in (experiment.prompts, experiment.preferences):
        from harness.testbed import prompts as testbed
    plain = testbed.prompts() if experiment.prompts == TESTBED else _read_prompts(experiment.prompts, experiment)
    labelled = (
        testbed.preferences()
        if experiment.preferences == TESTBED
        else _read_prompts(experiment.preferences, experiment, labelled=True)
    )
    return plain, labelled


def _needed_rows(experiment: Experiment, labelled: bool) -> tuple[prompts.Rows, ...]:
    """What the arms that read prompts, or labelled rows, need of them; pairs where there is no such arm."""
    stages = [stage for arm in experiment.arms() for stage in experiment.stages(arm)]
    return tuple(sorted({stage.rows for stage in stages if stage.labelled is labelled})) or ("pairs",)


def _read_prompts(text: str, experiment: Experiment, labelled: bool = False) -> Sequence[Prompt]:
    folder, rows = model_folder(experiment.model), _needed_rows(experiment, labelled)
    read = {
        source: _fitting_prompts(
            source.name, _state(source.name), folder, labelled, rows, experiment.trust_remote_code, experiment.day
        )
        for source in parse_sources(text)
    }
    return mix(read) if len(read) > 1 else next(iter(read.values()))


def _state(source: str) -> tuple[str, int] | None:
    """Which file a name stands for now, and when it was last changed; None for a data set of the hub."""
    path = Path(source)
    return (str(path.resolve()), path.stat().st_mtime_ns) if path.is_file() else None


@cache
def _fitting_prompts(
    source: str,
    _state: tuple[str, int] | None,
    model: Path,
    labelled: bool,
    rows: tuple[prompts.Rows, ...],
    trust_remote_code: bool,
    day: date | None,
) -> Sequence[Prompt]:
    """The prompts of a file or data set that fit the model's context. Prints what was left out or not used."""
    found = prompts.load_prompts(source, labelled, rows)
    if found.unused:
        print(f"{source}: unused columns: {prompts.rows_by_name(found.unused)}", file=sys.stderr)
    kept = fitting.prompts_that_fit(found.prompts, model, labelled, trust_remote_code, day)
    too_long = len(found.prompts) - len(kept)
    left_out = {"duplicate": found.duplicates, "empty": found.empty, "too long for the model": too_long}
    if any(left_out.values()):
        counts = ", ".join(f"{number} {reason}" for reason, number in left_out.items())
        print(f"{source}: {len(kept)} prompts, rows left out: {counts}", file=sys.stderr)
    if not kept:
        raise UserError(
            f"{source}: all {too_long} prompts are too long for the context of {model}: give shorter ones, "
            "or another model"
        )
    return kept


def data_folder(experiment: Experiment, run: Path) -> Path:
    """Folder of the benchmark files of a run; the testbed's are in the run folder."""
    return RunFolder(run).data if experiment.data_dir == TESTBED else Path(experiment.data_dir)
