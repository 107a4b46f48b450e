"""lm-eval:TASK against lm-eval's own evaluator and HFLM, on the same model and questions (made here)."""

import json
from pathlib import Path

import pytest
from command_line import harness

from harness.benchmarks.base import Policy, Questions, Settings
from harness.errors import UserError
from harness.experiment import registry

WORDS = ["Red", "a blue sky over the sea", "green", "Ten apples", "no", "the old man's house", "Yes, it is", "42"]


def choices(number):
    return [WORDS[(number + place) % len(WORDS)] for place in range(4)]


ARC = [
    {
        "question": f"Which of these has color {number}?",
        "choices": {"text": choices(number), "label": ["A", "B", "C", "D"]},
        "answerKey": "ABCD"[number % 4],
    }
    for number in range(12)
]
HELLASWAG = [
    {
        "ind": number,
        "activity_label": "Cooking",
        "ctx_a": f"A man stirs pot {number}.",
        "ctx_b": "he",
        "endings": choices(number),
        "label": str(number % 4),
    }
    for number in range(8)
]
TRUTHFULQA = [
    {
        "question": f"Is the sky blue on day {number}?",
        "mc1_targets": {"choices": choices(number), "labels": [1, 0, 0, 0]},
        "mc2_targets": {"choices": choices(number), "labels": [1, 1, 0, 0]},
    }
    for number in range(6)
]
BBH = [{"input": f"not ( True ) and {number % 2 == 0} is", "target": str(number % 2 == 0)} for number in range(6)]
LAMBADA = [
    {"text": f"The dog saw the cat and the cat saw the {word}", "domain": None} for word in ("dog", "man", "dog")
]
STOCK = {
    "arc_easy": ("arc", {"train": ARC, "validation": ARC, "test": ARC}, {"num_fewshot": 2}),
    "hellaswag": ("hellaswag", {"train": HELLASWAG, "validation": HELLASWAG}, {}),
    "truthfulqa_mc2": ("truthfulqa", {"validation": TRUTHFULQA}, {}),
    "bbh_fewshot_boolean_expressions": ("bbh/fewshot", {"test": BBH}, {}),
    "lambada_openai": ("lambada", {"test": LAMBADA}, {}),
}


@pytest.fixture
def folder(tmp_path):
    for task, (_, splits, _) in STOCK.items():
        (tmp_path / "lm_eval" / task).mkdir(parents=True)
        for split, rows in splits.items():
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (tmp_path / "lm_eval" / task / f"{split}.jsonl").write_text(lines)
    return tmp_path


@pytest.fixture(scope="module")
def engine(testbed_model_dir):
    from harness.engines.transformers import TransformersEngine

    return TransformersEngine.load(str(testbed_model_dir))


@pytest.fixture(scope="module")
def hflm(engine):
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=engine.model, tokenizer=engine.tokenizer, batch_size=4, max_length=8192)


OWN = {
    "begun.yaml": """
task: begun
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: gold
gen_prefix: "The answer is"
metric_list:
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
  - {metric: f1, aggregation: f1, higher_is_better: true}
""",
    "written.yaml": """
task: written
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[gold]}}"
gen_prefix: "I say:"
generation_kwargs: {until: [" "], max_gen_toks: 12}
filter_list:
  - name: whole
    filter: [{function: take_first}]
  - name: letters
    filter: [{function: regex, regex_pattern: "([a-z])"}, {function: take_first}]
""",
    "schema.yaml": """
task: schema
output_type: multiple_choice
doc_to_text: gold
doc_to_target: "{{ending}}"
doc_to_choice: "{{choices}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
""",
}
QUESTIONS = [
    {"question": f"What is zib {number}?", "choices": choices(number)[:2], "gold": number % 2, "ending": "and so on."}
    for number in range(7)
]
DATA = """
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
"""
REFUSED = {
    "unsafe.yaml": "task: unsafe\noutput_type: generate_until\nunsafe_code: true\n",
    "rolling.yaml": "task: rolling\noutput_type: loglikelihood_rolling\n",
    "seen.yaml": "task: seen\noutput_type: generate_until\ndoc_to_image: image\n",
    "hub_metric.yaml": "task: hub_metric\noutput_type: generate_until\nmetric_list: [{metric: rouge}]\n",
    "pair.yaml": "group: pair\ntask: [begun, {task: written, num_fewshot: 1}]\n",
    "tagged.yaml": "task: tagged\ntag: labelled\noutput_type: generate_until\n",
}


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A folder of own tasks, whose data are at dataset_path."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    for name, text in OWN.items():
        (folder / name).write_text(text + DATA.format(file=folder / "rows.jsonl"))
    for name, text in REFUSED.items():
        (folder / name).write_text(text)
    return folder


def their_scores(hflm, task, manager, chat, num_fewshot=None):
    """What lm-eval's own command finds, with its evaluator and model class."""
    import lm_eval

    return lm_eval.simple_evaluate(
        hflm,
        tasks=[task],
        task_manager=manager,
        num_fewshot=num_fewshot,
        apply_chat_template=chat,
        fewshot_as_multiturn=chat,
        bootstrap_iters=0,
    )


def ours(engine, task, folder, **options):
    """The score by way of stored rows, and the rows."""
    name = f"lm-eval:{task}"
    settings = Settings(options=registry.load("benchmark", name).Options(**options))
    items = registry.load("benchmark", name).load(folder, settings)
    advanced = []
    rows = registry.load("benchmark", name).answer(Policy(engine), items, settings, advanced.append)
    assert sum(advanced) == len(items)
    items, rows = Questions(json.loads(json.dumps(items)), items.answering), json.loads(json.dumps(rows))
    return registry.load("benchmark", name).score(items, rows, []), rows


def check_equal(score, rows, found, task):
    """Every metric, and every response of the model."""
    named = found["results"][task].items()
    expected = {name: value for name, value in named if "," in name and "stderr" not in name}
    assert score.details["results"] == pytest.approx(expected, rel=1e-5, nan_ok=True)
    by_id = {str(sample["doc_id"]): sample for sample in found["samples"][task]}
    for row in rows:
        for responses, resps in zip(row["responses"], by_id[row["id"]]["resps"], strict=True):
            if isinstance(resps[0], str):
                assert responses == resps
            else:
                assert responses[0][0] == pytest.approx(resps[0][0], abs=1e-3)
                assert responses[0][1] in (None, resps[0][1])
    return expected


STOCK_CASES = [
    *(("arc_easy", True), ("hellaswag", True), ("hellaswag", False)),
    *(("truthfulqa_mc2", True), ("bbh_fewshot_boolean_expressions", True), ("lambada_openai", False)),
]


@pytest.mark.parametrize("task, chat", STOCK_CASES)
def test_stock_tasks_equal_lm_eval(task, chat, engine, hflm, folder, monkeypatch):
    import datasets
    import lm_eval
    from lm_eval.tasks import TaskManager

    place, splits, options = STOCK[task]
    score, rows = ours(engine, task, folder, chat=chat, **options)
    data = {name: datasets.Dataset.from_list(rows) for name, rows in splits.items()}
    monkeypatch.setattr("lm_eval.api.task.datasets.load_dataset", lambda **_settings: data)
    manager = TaskManager(include_path=Path(lm_eval.__file__).parent / "tasks" / place, include_defaults=False)
    expected = check_equal(score, rows, their_scores(hflm, task, manager, chat, options.get("num_fewshot")), task)
    first = next(name for name in expected if not name.startswith("perplexity"))
    assert score.value == pytest.approx(100 * expected[first]) and score.metric == f"{first.partition(',')[0]} %"
    assert score.missing == 0 and score.details["num_fewshot"] == options.get("num_fewshot", 0 if task[0] != "b" else 3)


@pytest.mark.parametrize("task, chat", [("begun", True), ("written", True), ("schema", True), ("begun", False)])
def test_own_tasks_equal_lm_eval(task, chat, engine, hflm, own, tmp_path):
    """A begun answer, several filters, a choice between contexts; f1 is no mean and is among the details."""
    from lm_eval.tasks import TaskManager

    score, rows = ours(engine, task, tmp_path, chat=chat, include_path=str(own))
    manager = TaskManager(include_path=own, include_defaults=False)
    check_equal(score, rows, their_scores(hflm, task, manager, chat), task)


def test_the_metric_can_be_chosen(engine, own, tmp_path):
    score, _ = ours(engine, "written", tmp_path, include_path=str(own), metric="exact_match,letters")
    assert score.metric == "exact_match (letters) %"
    assert score.value == pytest.approx(100 * score.details["results"]["exact_match,letters"])


@pytest.mark.parametrize(
    "task, options, said",
    [
        ("pair", {}, "is a group of tasks, not a task: .* --benchmark lm-eval:begun,lm-eval:written"),
        ("labelled", {}, "is a group of tasks.* lm-eval:tagged"),
        ("unsafe", {}, "runs code that the model wrote"),
        ("rolling", {}, "perplexity of plain text"),
        ("seen", {}, "images"),
        ("hub_metric", {}, "'rouge', which is code of the hub"),
        ("begum", {}, "did you mean 'begun'"),
        ("begun", {"metric": "f1"}, "no metric 'f1' that is a mean .*choose among acc_norm,none exact_match,none"),
        ("begun", {"cluster": "passage"}, "has no field 'passage'; it has question, choices"),
        ("begun", {"include_path": "/nowhere"}, "/nowhere is not a folder"),
        ("boolq", {"include_path": None}, "cannot be loaded .*lm_eval/boolq/SPLIT.jsonl"),
        ("mmlu_astronomy", {"include_path": None}, "cannot be loaded .*lm_eval/mmlu_astronomy/"),  # "task": in quotes
        ("egymmlu_arabic_language_(general)", {"include_path": None}, "cannot be loaded"),
    ],
)
def test_refusals(task, options, said, own, tmp_path):
    benchmark = registry.load("benchmark", f"lm-eval:{task}")
    with pytest.raises(UserError, match=said):
        benchmark.load(tmp_path, Settings(options=benchmark.Options(**{"include_path": str(own)} | options)))


def test_a_split_that_is_not_there(folder):
    (folder / "lm_eval" / "arc_easy" / "train.jsonl").unlink()
    with pytest.raises(UserError, match="arc_easy of lm-eval needs the split train"):
        registry.load("benchmark", "lm-eval:arc_easy").load(folder, Settings())


def test_a_question_that_does_not_fit_is_missing(engine, own, tmp_path, monkeypatch):
    prompt = len(engine.encode_chat([{"role": "user", "content": QUESTIONS[0]["question"]}]))
    monkeypatch.setattr(engine, "context_length", prompt + 2)
    score, rows = ours(engine, "begun", tmp_path, include_path=str(own))
    assert score.missing == score.details["too_long"] == len(rows) and score.values == {}


def test_the_command(own, folder):
    """Two tasks, one with own YAML; clusters by a field; the table names both."""
    given = (f"lm-eval:begun.include_path={own}", "lm-eval:begun.cluster=gold", "lm-eval:arc_easy.metric=acc_norm")
    sets = [word for each in given for word in ("--set", each)]
    told = ("eval", "testbed", "--data-dir", folder, "--limit", "5", *sets)
    printed = harness(*told, "--benchmark", "lm-eval:begun,lm-eval:arc_easy", "--name", "run", cwd=folder)
    assert "begun" in printed and "arc_easy" in printed
    score = json.loads((folder / "results/runs/run/arms/base-seed0/scores/lm-eval.begun.json").read_text())
    assert score["questions"] == 5 and set(score["clusters"].values()) <= {"0", "1"}
    assert "family: choose a member" in harness("eval", "testbed", "--benchmark", "lm-eval", cwd=folder, code=2)
