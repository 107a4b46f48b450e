"""Any task of lm-eval that asks for texts or likelihoods, as the benchmark lm-eval:TASK.

lm-eval's classes write the prompts, filter responses, compute the metrics and aggregate them; the model that is already
loaded answers. Responses are stored, so that they can be scored again.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from harness.benchmarks.base import Policy, Questions, Score, Settings
from harness.benchmarks.defaults import BenchmarkDefaults
from harness.benchmarks.files import suite_settings
from harness.benchmarks.rows import LMEvalItem, LMEvalSample
from harness.engines.answering import AnsweringEngine
from harness.engines.base import Sampling
from harness.errors import UserError
from harness.progress import Advance

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask

FAMILY = "lm-eval"
TASKS = "tasks"  # the folder of own tasks, among the files that the questions need
SHARES = re.compile(r"(^|_)(acc|accuracy|exact_match)(_|$)")  # metrics from 0 to 1, shown in percent


@dataclass(frozen=True)
class LMEvalOptions:
    """include_path: a folder with YAML files of own tasks.

    num_fewshot: instead of the task's own number.
    chat: write conversations with the chat template; otherwise plain text, as for a pretrained model.
    fewshot_as_multiturn: few-shot examples are turns of the conversation, instead of one message.
    metric: which of the task's metrics is the score, as METRIC or METRIC,FILTER; default: the first that is a mean.
    cluster: a field of the documents that dependent questions share, such as a passage.
    """

    include_path: str | None = None
    num_fewshot: int | None = None
    chat: bool = True
    fewshot_as_multiturn: bool = True
    metric: str | None = None
    cluster: str | None = None

    def __post_init__(self) -> None:
        if self.num_fewshot is not None and self.num_fewshot < 0:
            raise UserError(f"num_fewshot must be at least 0, not {self.num_fewshot}")


class LMEvalTask(BenchmarkDefaults):
    """A task of lm-eval as a benchmark: the mean of one of its metrics, with the others in the details."""

    name = FAMILY
    title = "a task of lm-eval"
    packages = ("lm-eval",)
    question_fields = ("doc",)
    Options = LMEvalOptions

    @classmethod
    def member(cls, task: str) -> "type[LMEvalTask]":
        """Return the class for one task."""
        named = {"__module__": cls.__module__, "__doc__": cls.__doc__, "name": f"{FAMILY}:{task}", "title": task}
        return type(cls.__name__, (cls,), named)

    @property
    def task(self) -> str:
        return self.name.removeprefix(f"{FAMILY}:")

    def load(self, data_dir: Path, settings: Settings) -> Questions[LMEvalItem]:
        from harness.benchmarks import lm_eval_catalogue as catalogue

        options = settings.options or LMEvalOptions()
        if suite_settings(data_dir).get("random_order"):
            raise UserError(f"{self.name} is not among the testbed's suites: give --data-dir DIR")
        own = Path(options.include_path) if options.include_path else None
        task = catalogue.with_data(catalogue.find(self.task, own), self.task, data_dir)
        shots = self._fewshot(task, options)
        metric, filtered = self._metric(task, options)
        return Questions(
            self._items(
                task,
                options,
                {
                    "task": self.task,
                    "version": task.VERSION,
                    "num_fewshot": shots,
                    "chat": options.chat,
                    "fewshot_as_multiturn": options.fewshot_as_multiturn,
                    "metric": metric,
                    "filter": filtered,
                    "cluster": options.cluster,
                    "lm_eval": version("lm-eval"),
                },
            ),
            answering={TASKS: own} if own else None,
        )

    def _fewshot(self, task: "ConfigurableTask", options: LMEvalOptions) -> int:
        """Set and return the number of few-shot examples, by lm-eval's rule."""
        from harness.benchmarks.lm_eval_catalogue import FEWSHOT_SEED

        usual = task.get_config("num_fewshot")
        if options.num_fewshot is not None and usual == 0 and options.num_fewshot != 0:
            raise UserError(f"{self.name} has no few-shot examples by its own definition: leave num_fewshot out")
        shots = (usual or 0) if options.num_fewshot is None else options.num_fewshot
        task.set_config(key="num_fewshot", value=shots)
        task.set_fewshot_seed(seed=FEWSHOT_SEED)
        return shots

    def _metric(self, task: "ConfigurableTask", options: LMEvalOptions) -> tuple[str, str]:
        """Return the name of the metric that is the score, and of the filter before it."""
        from lm_eval.api.metrics import mean

        means = [
            name for name, how in task.aggregation().items() if how is mean and task.higher_is_better().get(name, True)
        ]
        known = [(name, each.name) for each in task._filters for name in means]
        if not known:
            raise UserError(
                f"{self.name} has no metric that is a mean over questions where more is better; it has "
                f"{', '.join(task.aggregation())}"
            )
        wanted = options.metric or known[0][0]
        for name, filtered in known:
            if wanted in (name, f"{name},{filtered}"):
                return name, filtered
        raise UserError(
            f"{self.name} has no metric {wanted!r} that is a mean where more is better: choose among "
            f"{' '.join(','.join(pair) for pair in known)}"
        )

    def _items(
        self, task: "ConfigurableTask", options: LMEvalOptions, settings: dict[str, Any]
    ) -> Iterable[LMEvalItem]:
        from harness.benchmarks.lm_eval_requests import Chats, generation

        chats = Chats(set())
        task.build_all_requests(
            apply_chat_template=options.chat,
            fewshot_as_multiturn=options.chat and options.fewshot_as_multiturn,
            chat_template=chats.write if options.chat else None,
        )
        custom = task.get_config("process_results") is not None
        greedy = task.OUTPUT_TYPE == "loglikelihood" or ("exact_match" in task.aggregation() and not custom)
        items: dict[int, LMEvalItem] = {}
        for instance in task.instances:
            item = items.get(instance.doc_id)
            if item is None:
                item = items[instance.doc_id] = {
                    "id": str(instance.doc_id),
                    "doc": self._doc(instance.doc_id, instance.doc, options.cluster),
                    "contexts": [],
                    "requests": [],
                    "repeats": instance.repeats,
                    "greedy": greedy and task.OUTPUT_TYPE != "generate_until",
                    "settings": settings,
                }
            context = chats.context(instance.args[0])
            if context not in item["contexts"]:
                item["contexts"].append(context)
            place = item["contexts"].index(context)
            if task.OUTPUT_TYPE == "generate_until":
                item["requests"].append({"context": place, "generation": generation(instance.args[1], self.task)})
            else:
                item["requests"].append({"context": place, "continuation": instance.args[1]})
        return items.values()

    def _doc(self, number: int, doc: dict[str, Any], cluster: str | None) -> dict[str, Any]:
        if cluster is not None and cluster not in doc:
            raise UserError(f"{self.name}: document {number} has no field {cluster!r}; it has {', '.join(doc)}")
        try:
            return json.loads(json.dumps(doc))
        except (TypeError, ValueError) as error:
            raise UserError(f"{self.name}: document {number} holds more than texts and numbers ({error})") from None

    def answer(
        self, policy: Policy, items: Questions[LMEvalItem], settings: Settings, advance: Advance | None
    ) -> list[LMEvalSample]:
        from harness.benchmarks.lm_eval_requests import answers

        engine = policy.engine
        if not items[0]["settings"]["chat"] and isinstance(engine, AnsweringEngine) and engine.changes_chats:
            raise UserError(f"{self.name} asks in plain text (chat=false): leave out --system-prompt and --thinking")
        sampling = Sampling(settings.max_new_tokens or 0, settings.temperature or 0.0, seed=settings.seed)
        return answers(engine, self.name, items, sampling, settings.temperature is not None, advance)

    def clusters(self, items: Iterable[LMEvalItem]) -> dict[str, str]:
        """Cluster by the field of the option `cluster`."""
        return {
            item["id"]: json.dumps(item["doc"][field], sort_keys=True)
            for item in items
            if (field := item["settings"].get("cluster"))
        }

    def score(self, items: Questions[LMEvalItem], samples: list[LMEvalSample], judgments: list[Any]) -> Score:
        settings = dict(items[0]["settings"])
        metric, filtered = settings.pop("metric"), settings.pop("filter")
        found, results = scores(self.task, items, samples)
        several = len({key.partition(",")[2] for key in results}) > 1
        name = f"{metric} ({filtered})" if several else metric
        factor = 100.0 if SHARES.search(metric) else 1.0
        values = {
            identifier: factor * float(by_metric[f"{metric},{filtered}"])
            for identifier, by_metric in found.items()
            if f"{metric},{filtered}" in by_metric
        }
        return Score(
            benchmark=self.name,
            metric=f"{name} %" if factor > 1 else name,
            value=fmean(values.values()) if values else float("nan"),
            values=values,
            questions=len(items),
            missing=len(items) - len(values),
            details={
                **settings,
                "results": results,
                "too_long": sum(bool(sample.get("too_long")) for sample in samples),
            },
        )


def scores(
    name: str, items: Questions[LMEvalItem], samples: Sequence[LMEvalSample]
) -> tuple[dict[str, dict[str, Any]], dict[str, float]]:
    """Compute the task's metrics from stored responses, with lm-eval's filters, metrics and aggregations.

    Returns:
        question id -> "METRIC,FILTER" -> value, and "METRIC,FILTER" -> the aggregated value, as lm-eval names them.
    """
    from lm_eval.api.instance import Instance
    from lm_eval.api.metrics import mean

    from harness.benchmarks import lm_eval_catalogue as catalogue
    from harness.benchmarks.lm_eval_requests import Unread

    by_id = {item["id"]: item for item in items}
    answered = [(by_id[sample["id"]], sample["responses"]) for sample in samples if "responses" in sample]
    if not answered:
        return {}, {}
    manager = catalogue.find(name, items.answering.get(TASKS))
    task = catalogue.for_scoring(manager, name, [item["doc"] for item, _ in answered])
    docs = list(task.eval_docs)
    # lm-eval's own scoring of choices looks at the flag even where no metric of the task uses it
    unread = Unread() if task.get_config("process_results") else False
    instances: list[list[Any]] = []
    for number, (item, responses) in enumerate(answered):
        kind = "generate_until" if "generation" in item["requests"][0] else "loglikelihood"
        instances.append([])
        for place, (request, resps) in enumerate(zip(item["requests"], responses, strict=True)):
            instance = Instance(
                request_type=kind,
                doc=docs[number],
                arguments=("", request.get("continuation") or request.get("generation")),
                idx=place,
                metadata=(name, number, item["repeats"]),
            )
            instance.resps = [
                (each[0], unread if each[1] is None else each[1]) if isinstance(each, list) else each for each in resps
            ]
            instances[-1].append(instance)
    task._instances = [instance for group in instances for instance in group]
    task.apply_filters()
    found: dict[str, dict[str, Any]] = {item["id"]: {} for item, _ in answered}
    values: dict[str, list[Any]] = {}
    for filtered in task.instances[0].filtered_resps:
        for (item, _), doc, group in zip(answered, docs, instances, strict=True):
            metrics = task.process_results(doc, [instance.filtered_resps[filtered] for instance in group])
            for metric, value in metrics.items():
                found[item["id"]][f"{metric},{filtered}"] = value
                values.setdefault(f"{metric},{filtered}", []).append(value)
    aggregations = task.aggregation()
    results = {key: float(aggregations.get(key.rpartition(",")[0], mean)(several)) for key, several in values.items()}
    return found, results
