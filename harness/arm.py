"""One arm of an experiment: a method with a seed, trained, answered, judged and scored in its own folder.

Every step writes its files and then its mark; a step whose inputs have not changed is not done again.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import harness
from harness import registry, store
from harness.benchmarks.base import Judging, Policy, Settings
from harness.benchmarks.files import with_suite_settings
from harness.engines.base import Sampling
from harness.engines.logged import LoggedEngine
from harness.experiment import Experiment
from harness.inputs import Inputs
from harness.methods import Method, Prompt, Stage
from harness.pipeline import Setting, train_stages
from harness.planning import measure_lengths
from harness.progress import progress
from harness.prompts import PromptStream

if TYPE_CHECKING:
    from harness.engines.transformers import TransformersEngine
    from harness.training.trainer import Training


NO_PAIRS = "there are no pairs"  # the key of a benchmark that was left out


class Arm:
    """A method with a seed."""

    def __init__(self, experiment: Experiment, method: str, seed: int, root: store.Folder):
        self.experiment, self.name, self.seed, self.root = experiment, method, seed, root
        self.label = f"{method} seed {seed}"
        self.folder = root.folder("arms").folder(f"{method}-seed{seed}")
        self.method: Method = experiment.method(method)
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
        experiment = self.experiment
        streams = {
            labelled: PromptStream(inputs.labelled if labelled else inputs.prompts, self.seed)
            for labelled in {stage.labelled for stage in stages}
        }
        trained = train_stages(
            stages,
            Setting(
                base=inputs.base,
                folder=self.folder,
                shared=self.root.path,
                key=self._training_key(inputs),
                budget=experiment.cap,
                sampling=Sampling(experiment.max_new_tokens, experiment.temperature, experiment.top_p, self.seed),
                stream=lambda stage: streams[stage.labelled],
                lengths=lambda stage: measure_lengths(experiment, streams[stage.labelled].prompts),
                training=self._training,
                load=self._load,
                judge=inputs.judge,
                check_pairs=experiment.check_pairs,
                label=self.label,
            ),
        )
        self.worked |= trained.worked
        if not stages:
            return Policy(inputs.base, folder=self.folder.path)
        return Policy(
            trained.engine,
            reference=inputs.base,
            beta=getattr(self.options, "beta", 1.0),
            pairs=self._pairs(stages),
            folder=self.folder.path,
        )

    def _training(self, stage: Stage, state: Path) -> "Training":
        from harness.engines.loading import choose_device
        from harness.training.trainer import Training, lora, training_arguments

        on_gpu = choose_device(self.experiment.device) != "cpu"
        return Training(training_arguments(stage.training, state, self.seed, on_gpu), lora(stage.training))

    def _pairs(self, stages: Sequence[Stage]) -> list[Prompt] | None:
        """The pairs that the policy was trained on: those of its last stage, and of the stages that it went on from."""
        first = max(index for index, stage in enumerate(stages) if index == 0 or stage.start == "base")
        rows = [
            row
            for stage in stages[first:]
            for row in store.read_jsonl(self.folder / "preferences" / f"{stage.name}.jsonl")
        ]
        pairs = [
            Prompt(row["id"], tuple(row["prompt"]), row["chosen"], row["rejected"])
            for row in rows
            if {"chosen", "rejected"} <= row.keys()
        ]
        return pairs or None

    def _training_key(self, inputs: Inputs) -> str:
        sampling = (self.experiment.max_new_tokens, self.experiment.temperature, self.experiment.top_p)
        return store.digest(
            {
                "version": harness.__version__,
                "method": self.method.name,
                "options": asdict(self.options),
                "option_files": store.contents(vars(self.options).values()),
                "budget": self.experiment.budget,
                "sampling": sampling,
                "seed": self.seed,
                "inputs": inputs.key,
                "judge": inputs.judge.name if inputs.judge else None,
            }
        )

    def _load(self, path: Path) -> "TransformersEngine":
        from harness.engines.transformers import TransformersEngine

        experiment = self.experiment
        return TransformersEngine.load(
            path,
            experiment.device,
            batch_size=experiment.batch_size,
            trust_remote_code=experiment.trust_remote_code,
            attention=experiment.attention,
        )

    def left_out(self, benchmark: str) -> bool:
        """Whether a benchmark that needs pairs was left out, because this method has none."""
        return self.folder.finished(f"score-{benchmark}", NO_PAIRS)

    def score(self, name: str, policy: Policy, inputs: Inputs) -> None:
        """Leaves samples, judgments and the score of one benchmark in the folder."""
        benchmark = registry.load("benchmark", name)
        experiment = self.experiment
        chosen = Settings(
            self.seed,
            max_new_tokens=experiment.answer_tokens,
            limit=experiment.limit,
            options=experiment.benchmark_options(name),
        )
        settings = with_suite_settings(inputs.data_dir, chosen)
        judging = Judging(experiment.rejudge, experiment.both_orders)
        if benchmark.needs_pairs and not benchmark.has_pairs(policy, settings):
            self.folder.finish(f"score-{name}", NO_PAIRS)
            return
        items = benchmark.load(inputs.data_dir, settings)
        reference = policy.reference.weights_hash if policy.reference else None
        key = store.digest(
            {
                "version": harness.__version__,
                "benchmark": name,
                "items": items,
                "settings": asdict(settings),
                "option_files": store.contents(vars(settings.options).values()),
                "weights": [policy.engine.weights_hash, reference, policy.beta],
                "pairs": [asdict(pair) for pair in policy.pairs or ()] if benchmark.needs_pairs else None,
            }
        )
        answers = benchmark.turns * len(items)
        samples_file = self.folder / "samples" / f"{name}.jsonl"
        judgments_file = self.folder / "judgments" / f"{name}.jsonl"
        if not (self.folder.finished(f"samples-{name}", key) and samples_file.exists()):
            self.worked = True
            logged = LoggedEngine(policy.engine, self.folder / "samples" / f"{name}.partial.jsonl")
            with progress(f"{self.label} {name}: answer", answers) as advance:
                answered = benchmark.answer(replace(policy, engine=logged), items, settings, advance)
                store.write_jsonl(samples_file, answered)
            self.folder.finish(f"samples-{name}", key)
            logged.forget()
        key = store.digest([key, inputs.judge.name, asdict(judging)] if benchmark.needs_judge else [key])
        scores_file = self.folder / "scores" / f"{name}.json"
        if not (self.folder.finished(f"score-{name}", key) and scores_file.exists()):
            self.worked = True
            samples = store.read_jsonl(samples_file)
            judgments = []
            if benchmark.needs_judge:
                with progress(f"{self.label} {name}: judge", answers) as advance:
                    judgments = benchmark.judge(items, samples, inputs.judge, judging, advance)
                store.write_jsonl(judgments_file, judgments)
            store.write_json(scores_file, asdict(benchmark.score(items, samples, judgments)))
            self.folder.finish(f"score-{name}", key)
