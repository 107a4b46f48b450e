"""One arm of an experiment: a method with a seed, trained, answered, judged and scored in its own folder.

Every step writes its files and then its mark; a step whose inputs have not changed is not done again.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import harness
from harness import prompts, registry, store
from harness.benchmarks.base import Policy, Score, Settings
from harness.benchmarks.files import with_suite_settings
from harness.budget import Ledger
from harness.engines.base import Engine, Sampling
from harness.errors import UserError
from harness.experiment import TESTBED, Experiment
from harness.health import stage_health
from harness.judges.base import Judge
from harness.methods import Method, Prompt, Stage, Workbench
from harness.planning import estimate, measure_lengths, model_folder
from harness.progress import progress
from harness.prompts import PromptStream
from harness.stages import allowances, collect_stage, plan_stage

SMALL = 10_000_000  # parameters; such a model is slower on several threads than on one


@dataclass
class Inputs:
    """What the arms of an experiment share."""

    base: Engine
    prompts: Sequence[Prompt]
    labelled: Sequence[Prompt]
    data_dir: Path
    judge: Judge | None

    @property
    def key(self) -> dict:
        return {
            "weights": self.base.weights_hash,
            "prompts": store.digest([asdict(prompt) for prompt in self.prompts]),
            "labelled": store.digest([asdict(prompt) for prompt in self.labelled]),
        }


class Arm:
    """A method with a seed."""

    def __init__(self, experiment: Experiment, method: str, seed: int, root: store.Folder):
        self.experiment, self.name, self.seed = experiment, method, seed
        self.label = f"{method} seed {seed}"
        self.folder = root.folder("arms").folder(f"{method}-seed{seed}")
        self.method: Method = registry.load("method", method)
        self.options = experiment.method_options(method)
        self.worked = False  # whether this call did any step

    def run(self, inputs: Inputs) -> None:
        start = time.perf_counter()
        policy = self.train(inputs)
        trained = time.perf_counter()
        for name in self.experiment.benchmarks:
            self.score(name, policy, inputs)
        self._book_seconds(trained - start, time.perf_counter() - trained)

    def _book_seconds(self, training: float, scoring: float) -> None:
        """Adds to the wall time of earlier calls, which did the steps that this call found finished."""
        file = self.folder / "seconds.json"
        before = store.read_json(file) if file.exists() else {"training": 0.0, "scoring": 0.0}
        if self.worked:
            seconds = {"training": before["training"] + training, "scoring": before["scoring"] + scoring}
            store.write_json(file, seconds)

    def seconds(self) -> dict[str, float]:
        """Wall time spent in training (data generation included) and in scoring."""
        return store.read_json(self.folder / "seconds.json")

    def train(self, inputs: Inputs) -> Policy:
        """The trained policy; the files of each stage and the ledger are left in the folder."""
        stages = self.method.stages(self.options)
        cap = self.experiment.cap
        ledger = Ledger(cap.amount if cap.kind == "flops" else None)
        streams = {
            labelled: PromptStream(inputs.labelled if labelled else inputs.prompts, self.seed)
            for labelled in {stage.labelled for stage in stages}
        }
        engines = {"base": inputs.base, "current": inputs.base}
        key = self._training_key(inputs)
        for index, stage in enumerate(stages):
            key = store.digest([key, stage.name])
            stream = streams[stage.labelled]
            if not self.folder.finished(stage.name, key):
                self.worked = True
                self._train_stage(stage, engines, stream, ledger, allowances(stages, cap, ledger, index), inputs)
                store.write_json(self.folder / "ledger.json", ledger.as_dict())
                self.folder.finish(stage.name, key, drawn=stream.position, ledger=ledger.as_dict())
            facts = self.folder.facts(stage.name)
            stream.position = facts["drawn"]
            ledger = Ledger.from_dict(facts["ledger"])
            engines["current"] = self._load(self._checkpoint(stage))
        if not stages:
            if not (self.folder / "ledger.json").exists():
                store.write_json(self.folder / "ledger.json", ledger.as_dict())
            return Policy(inputs.base)
        return Policy(engines["current"], reference=inputs.base, beta=getattr(self.options, "beta", 1.0))

    def _training_key(self, inputs: Inputs) -> str:
        sampling = (self.experiment.max_new_tokens, self.experiment.temperature, self.experiment.top_p)
        return store.digest(
            {
                "version": harness.__version__,
                "method": self.name,
                "options": asdict(self.options),
                "option_files": _file_digests(self.options),
                "budget": self.experiment.budget,
                "sampling": sampling,
                "seed": self.seed,
                "inputs": inputs.key,
                "judge": inputs.judge.name if inputs.judge else None,
            }
        )

    def _checkpoint(self, stage: Stage) -> Path:
        return self.folder / "checkpoints" / stage.name

    def _load(self, path: Path) -> Engine:
        from harness.engines.transformers import TransformersEngine

        return TransformersEngine.load(str(path), device=self.experiment.device, batch_size=self.experiment.batch_size)

    def _train_stage(
        self,
        stage: Stage,
        engines: dict[str, Engine],
        stream: PromptStream,
        ledger: Ledger,
        allowance: float,
        inputs: Inputs,
    ) -> None:
        from harness.training.trainer import reference_logprobs, train

        experiment = self.experiment
        start = engines[stage.start]
        bench = Workbench(
            engine=engines[stage.generator],
            ledger=ledger,
            sampling=Sampling(experiment.max_new_tokens, experiment.temperature, experiment.top_p, self.seed),
            stage=stage.name,
            judge=inputs.judge,
            label=self.label,
        )
        lengths = measure_lengths(experiment, stream.prompts)
        plan = plan_stage(stage, experiment.cap, lengths, start.parameters)
        examples = collect_stage(stage, bench, stream.take, plan, experiment.cap, allowance)
        ledger.charge("generate", bench.engine.parameters, discarded=sum(bench.discarded.values()))
        store.write_jsonl(
            self.folder / "preferences" / f"{stage.name}.jsonl",
            (
                {"id": example.id, **example.record, "sequences": [asdict(each) for each in example.sequences]}
                for example in examples
            ),
        )
        reference = None
        if stage.objective.needs_reference:
            with progress(
                f"{self.label} {stage.name}: reference", len(examples) * stage.objective.sequences
            ) as advance:
                reference = reference_logprobs(start, examples, ledger, advance)
        with progress(f"{self.label} {stage.name}: train", len(examples)) as advance:
            result = train(
                start,
                examples,
                stage.objective,
                stage.training,
                reference,
                self._checkpoint(stage),
                self.seed,
                ledger,
                advance,
            )
        store.write_jsonl(self.folder / "training" / f"{stage.name}.jsonl", result.history)
        health = stage_health(examples, reference, bench, result.history)
        store.write_json(self.folder / "health" / f"{stage.name}.json", health)

    def score(self, name: str, policy: Policy, inputs: Inputs) -> Score:
        """The score of one benchmark: samples, judgments and the score are left in the folder."""
        benchmark = registry.load("benchmark", name)
        chosen = Settings(self.seed, max_new_tokens=self.experiment.answer_tokens, limit=self.experiment.limit)
        settings = with_suite_settings(inputs.data_dir, chosen)
        items = benchmark.load(inputs.data_dir, settings)
        reference = policy.reference.weights_hash if policy.reference else None
        key = store.digest(
            [harness.__version__, name, items, asdict(settings), policy.engine.weights_hash, reference, policy.beta]
        )
        samples_file = self.folder / "samples" / f"{name}.jsonl"
        judgments_file = self.folder / "judgments" / f"{name}.jsonl"
        if not self.folder.finished(f"samples-{name}", key):
            self.worked = True
            with progress(f"{self.label} {name}: answer", None) as advance:
                store.write_jsonl(samples_file, benchmark.answer(policy, items, settings, advance))
            self.folder.finish(f"samples-{name}", key)
        key = store.digest([key, inputs.judge.name if benchmark.needs_judge else None])
        if not self.folder.finished(f"score-{name}", key):
            self.worked = True
            samples = store.read_jsonl(samples_file)
            judgments = []
            if benchmark.needs_judge:
                with progress(f"{self.label} {name}: judge", None) as advance:
                    judgments = benchmark.judge(items, samples, inputs.judge, advance)
                store.write_jsonl(judgments_file, judgments)
            store.write_json(
                self.folder / "scores" / f"{name}.json", asdict(benchmark.score(items, samples, judgments))
            )
            self.folder.finish(f"score-{name}", key)
        return Score(**store.read_json(self.folder / "scores" / f"{name}.json"))


def _file_digests(options: object) -> dict[str, str]:
    """Content of the files that options name, such as a set of principles."""
    named = {name: Path(value) for name, value in asdict(options).items() if isinstance(value, str)}
    return {name: store.file_digest(path) for name, path in named.items() if path.is_file()}


def check_inputs(experiment: Experiment) -> None:
    """Reads prompts and benchmark files and plans the budget, so that mistakes show before anything is spent.

    Raises:
        UserError: for a file, a judge or a budget that the run could not use.
    """
    _check_training_data(experiment)
    estimate(experiment, *load_prompts(experiment))
    judged = [name for name in experiment.benchmarks if registry.load("benchmark", name).needs_judge]
    if judged and load_judge(experiment) is None:
        raise UserError(f"{', '.join(judged)} on real files need a judge: give --judge-model (and --judge-url)")
    if experiment.data_dir != TESTBED:
        for name in experiment.benchmarks:
            registry.load("benchmark", name).load(Path(experiment.data_dir), Settings())


def _check_training_data(experiment: Experiment) -> None:
    """Real benchmarks are not for models that were trained on the testbed's questions unawares."""
    if experiment.data_dir == TESTBED:
        return
    for method in experiment.arms():
        for stage in registry.load("method", method).stages(experiment.method_options(method)):
            option = "preferences" if stage.labelled else "prompts"
            if getattr(experiment, option) == TESTBED:
                raise UserError(f"{method} on real benchmarks needs training data: give --{option} FILE")


def load_inputs(experiment: Experiment, root: store.Folder) -> Inputs:
    """Model, prompts, benchmark files and judge of an experiment."""
    import torch

    from harness.engines.transformers import TransformersEngine

    base = TransformersEngine.load(
        str(model_folder(experiment.model)),
        device=experiment.device,
        batch_size=experiment.batch_size,
        trust_remote_code=experiment.trust_remote_code,
    )
    if base.parameters < SMALL:
        torch.set_num_threads(1)
    return Inputs(base, *load_prompts(experiment), data_dir(experiment, root), load_judge(experiment))


def load_prompts(experiment: Experiment) -> tuple[Sequence[Prompt], Sequence[Prompt]]:
    """Training prompts and labelled pairs of an experiment."""
    if TESTBED in (experiment.prompts, experiment.preferences):
        from harness.testbed import prompts as testbed
    plain = testbed.prompts() if experiment.prompts == TESTBED else _read_prompts(experiment.prompts)
    labelled = (
        testbed.preferences()
        if experiment.preferences == TESTBED
        else _read_prompts(experiment.preferences, labelled=True)
    )
    return plain, labelled


@cache
def _read_prompts(path: str, labelled: bool = False) -> Sequence[Prompt]:
    """The prompts of a file; rows that were left out are told."""
    found = prompts.load_prompts(path, labelled)
    if found.duplicates or found.empty:
        left_out = f"{found.duplicates} duplicate and {found.empty} empty rows left out"
        print(f"{path}: {len(found.prompts)} prompts, {left_out}", file=sys.stderr)
    return found.prompts


def data_dir(experiment: Experiment, root: store.Folder) -> Path:
    if experiment.data_dir != TESTBED:
        return Path(experiment.data_dir)
    from harness.testbed.suites import write_suites

    folder = root / "data"
    write_suites(folder)
    return folder


def load_judge(experiment: Experiment) -> Judge | None:
    """The judge, or None when no benchmark and no method needs one that is given."""
    if experiment.judge_model:
        from harness.judges.openai import OpenAIJudge

        return OpenAIJudge(experiment.judge_model, base_url=experiment.judge_url)
    if experiment.data_dir == TESTBED:
        from harness.testbed.judge import TestbedJudge

        return TestbedJudge()
    return None
