"""Trains the stages of a method in a folder; what is finished there is not done again."""

import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness import store
from harness.budget import Budget, Ledger
from harness.engines.base import Sampling
from harness.engines.logged import LoggedEngine
from harness.health import stage_health
from harness.judges.base import Judge
from harness.methods import Lengths, Stage, Workbench
from harness.progress import progress
from harness.prompts import PromptStream
from harness.stages import allowances, collect_stage, plan_stage
from harness.training.example_file import read_examples

if TYPE_CHECKING:
    from harness.engines.transformers import TransformersEngine
    from harness.training.trainer import Training


@dataclass(frozen=True)
class Setting:
    """What the stages of a run have in common.

    base: the model that the run starts from.
    folder: gets preferences/, checkpoints/, training/ and health/, a file or folder for each stage, and ledger.json.
    shared: folder of what runs share: reference/ (log-probabilities), logs of endpoints.
    key: digest of all that the results depend on.
    stream: the prompts of a stage.
    lengths: expected tokens of a stage's prompts and completions.
    training: how a stage is trained, given the folder of its state.
    load: the engine of a checkpoint.
    check_pairs: pairs of each stage whose order a judge is asked about.
    """

    base: "TransformersEngine"
    folder: store.Folder
    shared: Path
    key: str
    budget: Budget
    sampling: Sampling
    stream: Callable[[Stage], PromptStream]
    lengths: Callable[[Stage], Lengths]
    training: "Callable[[Stage, Path], Training]"
    load: "Callable[[Path], TransformersEngine]"
    judge: Judge | None = None
    check_pairs: int = 0
    label: str = ""

    def examples(self, stage: Stage) -> Path:
        return self.folder / "preferences" / f"{stage.name}.jsonl"

    def checkpoint(self, stage: Stage) -> Path:
        return self.folder / "checkpoints" / stage.name

    def work(self, stage: Stage) -> Path:
        """For what is there only while the stage is not finished."""
        return self.folder / "training" / stage.name


@dataclass(frozen=True)
class Trained:
    """The policy, what was spent, and whether this call did any step."""

    engine: "TransformersEngine"
    ledger: Ledger
    worked: bool


def train_stages(stages: Sequence[Stage], setting: Setting) -> Trained:
    """The result of the last stage (the base model where there is none).

    Raises:
        UserError: for anything the user can mend; what was finished stays in the folder.
    """
    folder = setting.folder
    ledger = Ledger(setting.budget.amount if setting.budget.kind == "flops" else None)
    engines = {"base": setting.base, "current": setting.base}
    key, worked = setting.key, False
    for index, stage in enumerate(stages):
        key = store.digest([key, stage.name])
        collected = f"{stage.name}-examples"
        stream = setting.stream(stage)
        if not (folder.finished(stage.name, key) and setting.checkpoint(stage).exists()):
            worked = True
            if not (folder.finished(collected, key) and setting.examples(stage).exists()):
                allowance = allowances(stages, setting.budget, ledger, index)
                facts = _collect(stage, engines, stream, ledger, allowance, setting)
                folder.finish(collected, key, **facts)
            facts = folder.facts(collected)
            ledger = Ledger.from_dict(facts["ledger"])
            _train(stage, engines[stage.start], facts, ledger, setting)
            store.write_json(folder / "ledger.json", ledger.as_dict())
            folder.finish(stage.name, key, drawn=facts["drawn"], ledger=ledger.as_dict())
        facts = folder.facts(stage.name)
        stream.position = facts["drawn"]
        ledger = Ledger.from_dict(facts["ledger"])
        engines["current"] = setting.load(setting.checkpoint(stage))
    if not (folder / "ledger.json").exists():
        store.write_json(folder / "ledger.json", ledger.as_dict())
    return Trained(engines["current"], ledger, worked)


def _collect(
    stage: Stage,
    engines: "dict[str, TransformersEngine]",
    stream: PromptStream,
    ledger: Ledger,
    allowance: float,
    setting: Setting,
) -> dict:
    """Writes the examples of a stage; what else the next steps must know of it."""
    bench = Workbench(
        engine=LoggedEngine(engines[stage.generator], setting.work(stage) / "completions.jsonl"),
        ledger=ledger,
        sampling=setting.sampling,
        stage=stage.name,
        judge=setting.judge,
        label=setting.label,
        shared=setting.shared,
    )
    plan = plan_stage(stage, setting.budget, setting.lengths(stage), engines[stage.start].parameters)
    number = collect_stage(stage, bench, stream.take, plan, setting.budget, allowance, setting.examples(stage))
    ledger.charge("generate", bench.engine.parameters, discarded=sum(bench.discarded.values()))
    return {
        "examples": number,
        "discarded": bench.discarded,
        "events": bench.events,
        "drawn": stream.position,
        "ledger": ledger.as_dict(),
    }


def _train(
    stage: Stage, start: "TransformersEngine", collected: dict, ledger: Ledger, setting: Setting
) -> None:
    from harness.training.dataset import build_data
    from harness.training.reference import reference_logprobs
    from harness.training.trainer import train

    label, objective = f"{setting.label} {stage.name}", stage.objective
    work = setting.work(stage)
    examples = read_examples(setting.examples(stage))
    data = build_data(examples, work / "examples.arrow", objective.sequences, start.context_length)
    reference = None
    if objective.needs_reference:
        with progress(f"{label}: reference", len(data) * objective.sequences) as advance:
            reference = reference_logprobs(start, data, ledger, setting.shared / "reference", advance)
    training = setting.training(stage, work / "state")
    with progress(f"{label}: train", round(len(data) * training.args.num_train_epochs)) as advance:
        result = train(start, data, objective, reference, training, setting.checkpoint(stage), ledger, advance)
    store.write_jsonl(setting.folder / "training" / f"{stage.name}.jsonl", result.history)
    examples = read_examples(setting.examples(stage))
    health = stage_health(examples, reference, collected, setting.judge, setting.check_pairs, result.history)
    store.write_json(setting.folder / "health" / f"{stage.name}.json", health)
    for warning in health["warnings"]:
        print(f"warning: {label}: {warning}", file=sys.stderr)
    shutil.rmtree(work)
