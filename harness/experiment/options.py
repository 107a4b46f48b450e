"""The options of an experiment in one dataclass, for the command line, YAML files and Python alike."""

import dataclasses
import datetime
import json
import shlex
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args

from annotated_types import Ge, Gt, Interval

from harness.budget import Budget
from harness.errors import UserError, unknown_name
from harness.experiment import defaults, registry
from harness.experiment.search import Distribution, trial_points, within
from harness.files.folders import file_name
from harness.files.store import safe_name
from harness.files.typed import Fields, Prose, build, check
from harness.files.urls import public_url
from harness.models.folder import TESTBED
from harness.thoughts import parse_marks

Tracker = Literal["mlflow", "tensorboard", "trackio", "wandb"]
Dtype = Literal["auto", "float32", "bfloat16"]  # see harness.engines.loading.choose_dtype
Engine = Literal["auto", "transformers", "vllm"]  # see harness.runs.engine_choice
TRACKERS: tuple[str, ...] = get_args(Tracker)
ENGINES: tuple[str, ...] = get_args(Engine)
RATE = "learning_rate"
MOST_SEEDS = 1000
MOST_TRIALS = 1000
Count = Annotated[int, Ge(1)]
Share = Annotated[float, Interval(ge=0, le=1)]
PositiveShare = Annotated[float, Interval(gt=0, le=1)]


def option(default: Any, text: str, *flags: str) -> Any:
    """Return a field with its help text and its flags on the command line, --NAME by default."""
    metadata = {"help": text, "flags": flags}
    if isinstance(default, dict):
        return field(default_factory=dict, metadata=metadata)
    return field(default=default, metadata=metadata)


def flags_of(each: "dataclasses.Field[Any]") -> tuple[str, ...]:
    """Return an option's flags on the command line, the usual one first; naming them avoids --no-NAME switches."""
    return each.metadata["flags"] or (f"--{each.name.replace('_', '-')}",)


@dataclass(frozen=True)
class Experiment:
    """Model, prompts, methods, budget, seeds, benchmarks and judge of one comparison."""

    name: str = option("experiment", "Name of the run folder under the results folder.")
    methods: tuple[str, ...] = option(
        ("sso",),
        "Methods, separated by commas: names or FILE.py:CLASS; base is always added. NAME=METHOD is a variant with its "
        "own options.",
        *("--method", "--methods", "-m"),
    )
    benchmarks: tuple[str, ...] = option(
        ("mt-bench", "alpaca-eval", "reward-bench", "math"),
        "Benchmarks, separated by commas: names or FILE.py:CLASS. NAME=BENCHMARK is a variant with its own options.",
        *("--benchmark", "--benchmarks", "-b"),
    )
    seeds: Annotated[int, Interval(ge=1, le=MOST_SEEDS)] = option(1, "Seeds per method: 0, 1, ...")
    budget: str = option(
        "1.2e12", "Cap per method and seed, data generation included: FLOPs (1e12), prompts=N or updates=N."
    )
    ledger: Literal["needed", "nominal"] = option(
        "needed",
        "How FLOPs are counted: needed (what the architecture computes) or nominal (2 N per token, 6 N per trained "
        "token, for N parameters).",
    )
    checkpoints: tuple[PositiveShare, ...] = option(
        (),
        "Fractions of a budget in FLOPs, separated by commas, such as 0.25,0.5: the policy as it was when a run had "
        "spent them is kept and scored too. The end, 1, is always scored.",
    )
    model: str = option(
        TESTBED, "Model to start from: 'testbed' (embedded), a folder (also of a PEFT adapter) or a hub id."
    )
    scale: defaults.Scale = option(
        defaults.AUTO,
        "Defaults of methods' options: testbed, small (below 2B parameters), large, or auto (by the model).",
    )
    model_url: str | None = option(
        None, "Base URL of an OpenAI-compatible endpoint that serves the model to score; key in OPENAI_API_KEY."
    )
    prompts: str = option(
        TESTBED,
        "Training prompts: 'testbed', a JSON, JSONL, CSV (also .gz) or Parquet file, or a data set of the hub: "
        "OWNER/NAME, optionally with /CONFIG and :SPLIT. Several of them with weights: a.jsonl=0.7,b.jsonl=0.3.",
    )
    preferences: str = option(
        TESTBED, "Labelled pairs for dpo and other methods on them: 'testbed', or files or data sets as above."
    )
    data_dir: str = option(TESTBED, "Benchmark files: 'testbed' (its own suites) or a folder.")
    judge_model: str | None = option(None, "Model name of an OpenAI-compatible judge; the testbed needs none.")
    judge_url: str | None = option(None, "Base URL of the judge's endpoint; key in OPENAI_API_KEY.")
    judge_engine: str | None = option(
        None,
        "Local model as the judge: 'testbed', a folder or a hub id; a reward model if replies are compared.",
    )
    judge_max_calls: Count | None = option(None, "Hard cap on calls to the judge in the run folder.")
    judge_max_cost: Annotated[float, Gt(0)] | None = option(
        None, "Hard cap on the cost of the judge in USD in the run folder."
    )
    judge_price: str | None = option(
        None, "Price of the judge in USD per million tokens of prompts and replies: IN,OUT."
    )
    judge_parameters: Annotated[float, Ge(1e6)] | None = option(
        None,
        "Parameters of the judge at an endpoint, such as 70e9, to charge its judgments for training to the budget: "
        "2 FLOPs per parameter and token.",
    )
    judge_concurrency: Count = option(8, "Concurrent requests to the judge.")
    judge_rate: Annotated[float, Gt(0)] | None = option(None, "Maximum requests to the judge per minute.")
    judge_max_tokens: Count | None = option(
        None, "Maximum tokens of a judge's reply, thoughts included; default: as each protocol says."
    )
    judge_set: Fields = option(
        {},
        "Additional field of each request to the judge's endpoint: KEY=VALUE, such as reasoning_effort=low "
        "(repeatable); KEY=null omits a field.",
    )
    judge_missing: Share = option(
        0.02, "Maximum share of a benchmark's judgments without a verdict; above it, the score stays open."
    )
    accept_missing: bool = option(False, "Score benchmarks whatever share of the judgments has no verdict.")
    judge_log: str | None = option(
        None,
        "Folder of the judge's requests and replies, which runs may share; default: in the run folder.",
    )
    limit: Count | None = option(None, "Questions per benchmark, drawn at random, the same for all methods.")
    system_prompt: Prose | None = option(None, "System message for questions of benchmarks that have none.")
    thinking: Literal["on", "off"] | None = option(
        None, "Whether models think before they answer (on or off), if their chat template has the switch."
    )
    thought_marks: Prose | None = option(
        None, "What opens and closes a model's thought, such as '<think> </think>', or none; default: the usual marks."
    )
    answer_tokens: Count | None = option(
        None, "Maximum tokens of an answer to a benchmark question; default: as its protocol says."
    )
    max_new_tokens: Count | None = option(
        None,
        "Maximum tokens of a completion when sampling training data; default: "
        f"{defaults.NEW_TOKENS['testbed']} on the testbed, {defaults.NEW_TOKENS['small']} on other models.",
    )
    temperature: Annotated[float, Ge(0)] = option(1.0, "Temperature when sampling training data.")
    top_p: PositiveShare = option(1.0, "Nucleus (top-p) when sampling training data.")
    completion_tokens: Count | None = option(
        None, "Expected tokens per completion, for the plan; testbed: as measured."
    )
    batch_size: Count = option(128, "Sequences per forward pass of generation.")
    device: str = option("auto", "Where the model runs: auto, cpu, cuda.")
    dtype: Dtype = option(
        "auto",
        "Numbers that models compute with: float32, bfloat16 (trained weights stay in float32), or auto (float32 on a "
        "CPU, bfloat16 on a GPU).",
    )
    gpus: Count | None = option(None, "Processes that share each training, one per GPU of this machine (torchrun).")
    launcher: str | None = option(
        None,
        "Command that starts them instead: 'torchrun --nproc_per_node N' or 'accelerate launch --config_file F'.",
    )
    engine: Engine = option(
        "auto", "What generates: transformers, vllm, or auto (vllm if it is installed and there is a GPU)."
    )
    engine_url: str | None = option(
        None, "Base URL of a vLLM server to generate and score with, such as http://127.0.0.1:8000/v1."
    )
    tensor_parallel: Count = option(1, "GPUs per model in vLLM.")
    gpu_memory: PositiveShare = option(0.5, "Share of a GPU's memory for vLLM; the rest is for training.")
    attention: str = option("sdpa", "Attention in scoring and training: sdpa or flex (FlexAttention, on CUDA).")
    date: str | None = option(
        None, "Date for chat templates that write one: YYYY-MM-DD; default: the day on which the run began."
    )
    trust_remote_code: bool = option(False, "Run code that comes with the model; only for models you trust.")
    rejudge: bool = option(False, "Ask the judge again where a judgment has no verdict.")
    both_orders: bool = option(False, "Judge each pair in both orders and take the mean.")
    report_to: Tracker | None = option(
        None, f"Tracker for metrics, scores and spending: {', '.join(TRACKERS)}; its files go to the run folder."
    )
    check_pairs: Annotated[int, Ge(0)] = option(0, "Pairs per training stage that an LLM judge checks (paper: 200).")
    tune: Annotated[int, Interval(ge=0, le=MOST_TRIALS)] = option(
        0, "Tuning trials per method (0: off). The first uses the defaults; each costs one run budget."
    )
    tune_prompts: Count = option(400, "Training prompts held out from all training, to score trials.")
    search: dict[str, dict[str, Any]] = option(
        {}, "Limits of an option in tuning: NAME.OPTION=LOW,HIGH, such as dpo.learning_rate=1e-7,1e-5 (repeatable)."
    )
    options: dict[str, dict[str, Any]] = option(
        {}, "Option of a method or benchmark: NAME.OPTION=VALUE, such as dpo.beta=0.2 (repeatable).", "--set"
    )

    def __post_init__(self) -> None:
        check(self, "option")
        safe_name(self.name)
        Budget.parse(self.budget)
        parse_marks(self.thought_marks)
        if self.date is not None and _day(self.date) is None:
            raise UserError(f"date must be a day such as 2026-11-26, not {self.date!r}")
        if self.system_prompt is not None and not self.system_prompt.strip():
            raise UserError("system_prompt must not be empty: leave it out for none")
        if self.tune == 1:
            raise UserError("tune must be 0 or at least 2, as the first trial has the defaults")
        for url in (self.judge_url, self.model_url, self.engine_url):
            if url is not None:
                public_url(url)  # it is written into files
        self._check_combinations()
        self._check_names()

    def _check_combinations(self) -> None:
        """
        Raises:
            UserError: for options that exclude each other, or need others.
        """
        for name in ("judge_max_tokens", "judge_set"):
            if getattr(self, name) and not (self.judge_model or self.judge_engine):
                raise UserError(f"{name} changes how an LLM judge is asked: give --judge-model or --judge-engine too")
        if self.judge_parameters is not None and not self.judge_model:
            raise UserError("judge_parameters describes a judge at an endpoint: give --judge-model too")
        if self.judge_set and self.judge_engine:
            raise UserError("judge_set adds fields to an endpoint's requests, and --judge-engine sends none")
        if self.judge_model and self.judge_engine:
            raise UserError("one judge: give --judge-model or --judge-engine, not both")
        if self.model_url is not None and self.arms() != ("base",):
            raise UserError("a model behind an endpoint can be scored, not trained: use harness eval")
        if self.engine_url and self.engine == "transformers":
            raise UserError("engine_url names a vLLM server: leave it out, or --engine transformers")
        if self.checkpoints and self.cap.kind != "flops":
            raise UserError(
                f"checkpoints are fractions of a budget in FLOPs, and this one is {self.cap}: give --budget in FLOPs, "
                "such as 1e12, or leave out --checkpoints"
            )
        if self.checkpoints and self.arms() == ("base",):
            raise UserError("checkpoints are of a training, and base is not trained: give --method, or leave them out")
        if self.gpus and self.launcher:
            raise UserError("one way to start processes: give --gpus or --launcher, not both")

    def _check_names(self) -> None:
        """
        Raises:
            UserError: for a method, benchmark or option that is not known, or options of one that does not take part.
        """
        for kind in registry.GROUPS:
            for target in self.targets(kind).values():
                if target not in registry.names(kind):
                    registry.load(kind, target)
                elif registry.is_family(kind, target):
                    raise UserError(f"{kind} {target} is a family: choose a member of it, {target}:NAME")
        if both := set(self.arms()) & set(self.benchmark_names()):
            raise UserError(f"{min(both)} is both a method and a benchmark: name one of them NAME={min(both)}")
        for name in self.options:
            if name in self.arms():
                self.method_options(name)
            elif name in self.benchmark_names():
                self.benchmark_options(name)
            else:
                chosen = ", ".join((*self.arms(), *self.benchmark_names()))
                raise UserError(f"options for {name!r}, which is not among the methods and benchmarks {chosen}")
        for name in self.search:
            if name not in self.arms():
                raise UserError(f"limits for {name!r}, which is not among the methods {', '.join(self.arms())}")
            self.search_space(name)

    def entries(self, kind: str) -> dict[str, str]:
        """Return the methods or benchmarks that were asked for, by name, as they were written: NAME, TARGET or
        NAME=TARGET."""
        found: dict[str, str] = {}
        files: dict[str, str] = {}
        targets = {"base": "base"} if kind == "method" else {}
        for text in self.methods if kind == "method" else self.benchmarks:
            name, target = registry.entry(kind, text)
            if (before := targets.setdefault(name, target)) != target:
                raise UserError(f"{name} is given twice, as {before} and as {target}: choose another name for one")
            written = safe_name(file_name(name) if name == target else name)
            if (other := files.setdefault(written, name)) != name:
                raise UserError(f"{other} and {name} would have the same files: choose another name for one")
            found[name] = text
        return found

    def targets(self, kind: str) -> dict[str, str]:
        """Return what each name of a method or benchmark stands for, as `registry.load` takes it; base comes first."""
        found = {"base": "base"} if kind == "method" else {}
        return found | {name: registry.entry(kind, text)[1] for name, text in self.entries(kind).items()}

    def arms(self) -> tuple[str, ...]:
        """Return the methods and variants that are compared, base first."""
        return tuple(self.targets("method"))

    def benchmark_names(self) -> tuple[str, ...]:
        """Return the names of the benchmarks and of their variants."""
        return tuple(self.entries("benchmark"))

    def method(self, arm: str) -> Any:
        """Return the method of an arm."""
        return registry.load("method", self.targets("method")[arm])

    def method_options(self, arm: str) -> Any:
        """Return the options of an arm's method: the defaults for the model, with this experiment's changes."""
        kind = self.method(arm).Options
        return build(kind, self.defaults(arm) | self.options.get(arm, {}), f"option of {arm}")

    def stages(self, arm: str) -> list[Any]:
        """Return the stages of an arm's method; tuning may still choose other values of its options."""
        stages: list[Any] = self.method(arm).stages(self.method_options(arm))
        return stages

    def defaults(self, arm: str) -> dict[str, Any]:
        """Return the options of an arm's method that have another default for this model."""
        return defaults.options_of(self._scale, self.method(arm).Options)

    @property
    def new_tokens(self) -> int:
        """The most tokens of a completion that is sampled for training."""
        return self.max_new_tokens or defaults.NEW_TOKENS[self._scale]

    @property
    def _scale(self) -> str:
        return defaults.scale_of(self.model) if self.scale == defaults.AUTO else self.scale

    def search_space(self, arm: str) -> dict[str, Distribution]:
        """Return the search space of an arm's method within this experiment's limits, options that are set included."""
        space = dict(getattr(self.method(arm), "search_space", {}))
        if (rate := self.defaults(arm).get(RATE)) and RATE in space:
            space[RATE] = space[RATE].times(rate / self.method(arm).Options().learning_rate)
        for name, limits in self.search.get(arm, {}).items():
            if name not in space:
                raise unknown_name(f"tuned option of {arm}", name, space)
            space[name] = within(space[name], limits, f"{arm}.{name}")
        return space

    def tuned(self, arm: str) -> list[str]:
        """Return the names of the options that tuning chooses: those of the search space that are not set."""
        return [name for name in self.search_space(arm) if name not in self.options.get(arm, {})] if self.tune else []

    def trial_options(self, arm: str) -> list[Any]:
        """Return the options of each trial, [] if there is nothing to tune."""
        tuned, options = self.tuned(arm), self.method_options(arm)
        points = trial_points(self.search_space(arm), self.tune) if tuned else []
        return [dataclasses.replace(options, **{name: point[name] for name in tuned if point}) for point in points]

    def benchmark_options(self, benchmark: str) -> Any:
        """Return the options of a benchmark: its defaults with this experiment's changes."""
        kind = registry.load("benchmark", self.targets("benchmark")[benchmark]).Options
        return build(kind, self.options.get(benchmark, {}), f"option of {benchmark}")

    @property
    def day(self) -> datetime.date | None:
        """The date for chat templates; None for today."""
        return None if self.date is None else _day(self.date)

    @property
    def cap(self) -> Budget:
        return Budget.parse(self.budget)

    @property
    def fractions(self) -> tuple[float, ...]:
        """The fractions of the budget with a checkpoint along the way, ascending."""
        return tuple(sorted({each for each in self.checkpoints if each < 1}))

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, as in a YAML file."""
        values = {
            each.name: list(value) if isinstance(value := getattr(self, each.name), tuple) else value
            for each in dataclasses.fields(self)
        }
        return values | {"max_new_tokens": self.new_tokens}

    @property
    def command(self) -> str:
        """The command that asks for the same experiment."""
        words = ["harness", "run"]
        usual = {"max_new_tokens": defaults.NEW_TOKENS[self._scale]}
        for each in dataclasses.fields(self):
            value, flag = getattr(self, each.name), flags_of(each)[0]
            if each.type == Fields:
                for name, chosen in value.items():
                    words += [flag, f"{name}={json.dumps(chosen, ensure_ascii=False)}"]
            elif isinstance(value, dict):  # of settings by name
                for name, changes in value.items():
                    for setting, chosen in changes.items():
                        words += [flag, f"{name}.{setting}={_word(chosen)}"]
            elif value not in (each.default, usual.get(each.name)):
                words += [flag] if value is True else [flag, _word(value)]
        return shlex.join(words)


def _day(text: str) -> datetime.date | None:
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        return None


def _word(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(_word, value))
    return value if isinstance(value, str) else json.dumps(value)
