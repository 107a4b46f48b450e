"""`harness bench` on tiny shapes: contenders compute the same, the counts are right, the output has its fields."""

import json
import os
import signal

import numpy as np
import pytest
from command_line import harness

from harness.errors import UserError
from harness.perf import generate
from harness.perf.process import Remote
from harness.perf.train import CONTENDERS, _agreement
from harness.perf.workload import SHAPES, SHORT, ModelShape, Workload, flops, shape_of

TINY = ("--vocabulary", 64, "--hidden", 32, "--layers", 1, "--batch", 2, "--steps", 2, "--rounds", 2, "--threads", 1)
ON_CPU = ("--device", "cpu")
NAMES = {"sso": ["published", "ours", "ours-cached"], "dpo": ["trl", "trl-cached", "ours", "ours-cached"]}
BOTH = pytest.mark.parametrize("objective", NAMES)


def workload(objective, device="cpu"):
    return Workload(objective, shape_of("small", 64, 32, 1), 2, 2, 0, 1, device, "float32")


@pytest.fixture(scope="module")
def subjects():
    """All contenders, here in one process. (Processes that import this file are to start without torch.)"""
    from harness.perf.subject import TrainingSubject

    return {
        objective: {name: TrainingSubject(name, workload(objective)) for name in names}
        for objective, names in NAMES.items()
    }


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """As the command line has it, of two contenders."""
    more = ("--objective", "dpo", "--contenders", "ours-cached,trl", "--peak-flops", 1e9, "--json")
    return json.loads(harness("bench", "train", *TINY, *ON_CPU, *more, cwd=tmp_path_factory.mktemp("bench")))


@BOTH
def test_contenders_compute_the_same(subjects, objective):
    compared = {name: subject.compare() for name, subject in subjects[objective].items()}
    assert set(compared) <= set(CONTENDERS[objective])
    peer, *others = compared.values()
    assert len(peer["losses"]) == 2 and peer["losses"][0] != pytest.approx(peer["losses"][1], rel=1e-2)
    for other in others:
        assert other["losses"] == pytest.approx(peer["losses"], rel=1e-4)
        for name, gradient in peer["gradients"].items():
            assert np.linalg.norm(other["gradients"][name] - gradient) < 1e-3 * np.linalg.norm(gradient)


def test_disagreement_by_hand():
    """Losses 1.1 for 1 and 2 for 2; gradients (3, 4) and (3, 4.5): 0.5 of 5."""
    from harness.perf.subject import disagreement

    ours = {"losses": [1.1, 2.0], "gradients": {"a": np.array([3, 4.5]), "b": np.array([1.0])}}
    peer = {"losses": [1.0, 2.0], "gradients": {"a": np.array([3, 4.0]), "b": np.array([1.0])}}
    assert disagreement(ours, peer) == {"loss": pytest.approx(0.1), "gradient": pytest.approx(0.1)}
    with pytest.raises(UserError, match="the losses of ours and trl differ by 0.1 of their size"):
        _agreement({"trl": peer, "ours": ours}, "trl", 1e-4)


@BOTH
def test_work_is_counted(subjects, objective):
    """Padding, shared prompts and positions with logits, counted from the data anew."""
    batches = workload(objective).batches()
    works = {name: subject.work() for name, subject in subjects[objective].items()}
    ours, peer = works["ours"], works[NAMES[objective][0]]
    rows = {(place, prompt) for place, batch in enumerate(batches) for each in batch for prompt, _ in each}
    completions = {(place, *pair) for place, batch in enumerate(batches) for each in batch for pair in each}
    assert ours["head_positions"] == sum(len(completion) for *_, completion in completions)
    assert ours["positions"] == ours["head_positions"] + sum(len(prompt) for _, prompt in rows)
    longest = [max(len(prompt) + len(completion) for each in batch for prompt, completion in each) for batch in batches]
    padded = [-(-each // 8) * 8 for each in longest] if objective == "sso" else longest
    number = len(batches[0]) * len(batches[0][0])
    assert peer["positions"] == peer["head_positions"] == sum(number * each for each in padded)
    assert works["ours-cached"]["flops"] == pytest.approx(ours["flops"] * 3 / 4)  # no forward pass of the reference


@BOTH
def test_profile(subjects, objective):
    from harness.perf.profiling import PARTS

    for name, subject in subjects[objective].items():
        phases = subject.profile()
        assert set(phases) == {"policy", "reference", "backward"}
        for phase, parts in phases.items():
            assert set(parts) == set(PARTS)
            for took in parts.values():
                assert (took > 0) != ("cached" in name and phase == "reference")


def test_figures(measured):
    (result,) = measured["results"]
    assert list(result["contenders"]) == ["trl", "ours-cached"] and result["peer"] == "trl"
    assert result["machine"]["matmul_flops"] > 0 and set(result["machine"]["versions"]) >= {"torch", "trl"}
    assert result["agreement"]["ours-cached"]["loss"] < 1e-4
    peer = result["contenders"]["trl"]
    assert peer["speed_ratio"] == peer["memory_ratio"] == peer["memory_above_loaded_ratio"] == 1
    for each in result["contenders"].values():
        rounds = each["seconds"]["rounds"]
        assert len(rounds) == 2 and each["seconds"]["median"] == pytest.approx(sum(rounds) / 2)
        assert each["seconds"]["min"] == min(rounds) and each["seconds"]["max"] == max(rounds)
        assert each["tokens_per_second"] == pytest.approx(result["data"]["tokens"] / each["seconds"]["median"])
        assert each["speed_ratio"] == pytest.approx(peer["seconds"]["median"] / each["seconds"]["median"])
        assert each["memory_ratio"] == pytest.approx(each["peak_memory_bytes"] / peer["peak_memory_bytes"])
        assert each["peak_memory_bytes"] > each["peak_above_loaded_bytes"] >= 0
        assert each["flops_utilisation"] == pytest.approx(each["flops"] / each["seconds"]["median"] / 1e9)
    pairs = [pair for batch in workload("dpo").batches() for each in batch for pair in each]
    assert result["data"]["tokens"] == sum(len(prompt) + len(completion) for prompt, completion in pairs)


def test_table(tmp_path):
    """For people; of one contender, in 16 bits."""
    arguments = ("--objective", "dpo", "--contenders", "ours", "--dtype", "bfloat16", "--profile")
    text = harness("bench", "train", *TINY, *ON_CPU, *arguments, cwd=tmp_path)
    assert "ours" in text and "bfloat16" in text and "trl │" not in text and "LM head" in text


def test_flops_by_hand():
    """d 4, 2 heads, 1 for keys and values, feed-forward 8, 3 layers, 10 words; a prompt of 2 with answers of 1 and 2.

    Weights of a layer: query and output 16 each, key and value 8 each, feed-forward 3 * 32: 144. Five tokens are read,
    three of them have logits. Seen: 1 + 2 by the prompt, 3 by the first answer, 3 + 4 by the second: 13.
    """
    shape = ModelShape("llama", 10, 4, 8, 3, 2, 1, 64, SHORT)
    forward = 2 * (3 * 144 * 5 + 40 * 3) + 4 * 4 * 3 * 13
    assert flops(shape, [(2, (1, 2))], reference=False) == 3 * forward
    assert flops(shape, [(2, (1, 2))], reference=True) == 4 * forward


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_are_those_of_their_models(name):
    """Weights of the layers and head of Qwen2's published models: parameters without biases and norms."""
    from torch import device
    from torch.nn import Linear

    from harness.perf.contenders import build_model

    with device("meta"):
        model = build_model(SHAPES[name], 0, "meta")
    head = model.get_output_embeddings()
    linear = sum(each.weight.numel() for each in model.modules() if isinstance(each, Linear) and each is not head)
    assert (linear, head.weight.numel()) == (SHAPES[name].layer_weights, SHAPES[name].head_weights)
    published = {"qwen2-0.5b": 494_032_768, "qwen2-1.5b": 1_543_714_304}
    if name in published:
        assert sum(each.numel() for each in model.parameters()) == published[name]


def test_rows_of_the_long_shapes():
    for name in ("qwen2-0.5b", "qwen2-1.5b"):
        batches = Workload("dpo", SHAPES[name], 8, 8, 0, 1, "cpu", "float32").batches()
        rows = [len(pairs[0][0]) + sum(len(completion) for _, completion in pairs) for b in batches for pairs in b]
        assert sum(1000 <= each <= 2000 for each in rows) >= 0.9 * len(rows)


def test_data_depend_on_the_seed_alone():
    assert workload("sso").batches() == workload("sso").batches()
    pairs = [each[:2] for each in workload("sso").batches()[0]]
    assert pairs == workload("dpo").batches()[0]  # the same queries for both objectives


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--objective", "ppo"), "unknown objective 'ppo'"),
        (("--shape", "qwen2-0.5"), "did you mean 'qwen2-0.5b'?"),
        (("--hidden", "40"), "--hidden 40 is not a multiple of 16"),
        (("--vocabulary", "5"), "--vocabulary 5 is too small"),
        (("--peak-flops", "0"), "--peak-flops must be above 0"),
        (("--objective", "sso", "--contenders", "trl"), "unknown contender for sso 'trl'"),
        (("--batch", "0"), "--batch"),
    ],
)
def test_mistakes(tmp_path, arguments, message):
    assert message in " ".join(harness("bench", "train", *arguments, cwd=tmp_path, code=2).split())


def test_mistakes_that_are_found_later(tmp_path):
    from harness.perf.subject import TrainingSubject

    with pytest.raises(UserError, match="device 'nowhere' is not known"):
        TrainingSubject("ours", workload("sso", "nowhere"))
    with pytest.raises(UserError, match="model 'nothing' cannot be loaded"):
        generate.GenerationSubject("ours", "nothing", 4, 0, 1, "cpu", "auto")
    flex = ("--objective", "dpo", "--contenders", "ours-flex")
    told = harness("bench", "train", *flex, *TINY, *ON_CPU, cwd=tmp_path, code=2)
    assert "error: ours-flex: FlexAttention trains on CUDA only" in told
    told = harness("bench", "generate", "--batches", "1,x", cwd=tmp_path, code=2)
    assert "--batches '1,x' is not a list" in told


class Dies:
    def __init__(self, how):
        self.how = how

    def round(self):
        if self.how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise {"memory": MemoryError("no more"), "mistake": UserError("wrong"), "fault": KeyError("lost")}[self.how]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("memory", "memory ran out: use a smaller --batch or shape"),
        ("mistake", "wrong"),
        ("killed", "its process was killed"),
        ("fault", "its process ended with code 1"),
    ],
)
def test_a_process_that_fails_is_one_error(how, message):
    with pytest.raises(UserError, match=f"some: .*{message}"), Remote("some", Dies, how) as remote:
        remote.call("round")


def test_generation(tiny_model_dir, tmp_path):
    arguments = ("--model", tiny_model_dir, "--batches", "1,4", "--new-tokens", 4, "--rounds", 2, "--threads", 1)
    result = json.loads(harness("bench", "generate", *arguments, *ON_CPU, "--json", cwd=tmp_path))
    assert [row["batch"] for row in result["results"]] == [1, 4]
    for row in result["results"]:
        assert row["prompts"] == 16 and row["contenders"]["transformers"]["speed_ratio"] == 1
        for each in row["contenders"].values():
            assert len(each["tokens_per_second"]["rounds"]) == 2
            assert all(16 < tokens <= 16 * 4 for tokens in each["generated_tokens"])
    assert result["memory"]["ours"]["peak"] > 0


def test_answers_to_questions(tiny_model_dir, tmp_path):
    """Greedy answers are equal, and only ours computes no position that is not needed."""
    arguments = ("--model", tiny_model_dir, "--limit", 12, "--batch", 4, "--new-tokens", 6, "--rounds", 2)
    result = json.loads(harness("bench", "eval", *arguments, "--threads", 1, *ON_CPU, "--json", cwd=tmp_path))
    contenders = result["contenders"]
    assert list(contenders)[0] == "transformers" and "ours" in contenders
    for each in contenders.values():
        assert each["answers"] == each["equal_answers"] == 12 and len(each["seconds"]["rounds"]) == 2
    assert contenders["ours"]["computed_to_needed"] <= 1 <= contenders["transformers"]["computed_to_needed"]


def test_figures_of_answers_by_hand():
    """Twice as fast; one of two answers is equal; 30 positions of 20 needed; a log-probability is 0.5 lower."""
    from harness.perf.evaluation import figures

    record = {"answers": {"a": "x", "b": "y"}, "computed": 40, "needed": 20, "logprobs": [-1.0, -2.0], "least": 50}
    peer = [record | {"seconds": 4.0}] * 2
    ours = record | {"answers": {"a": "x", "b": "z"}, "computed": 30, "needed": 21, "logprobs": [-1.5, -2.25]}
    found = figures([ours | {"seconds": 1, "flops": 60}, ours | {"seconds": 3}], peer)
    assert (found["speed_ratio"], found["equal_answers"], found["answers"]) == (2, 1, 2)
    assert found["computed_to_needed"] == 1.5 and found["seconds"]["median"] == 2
    assert found["largest_difference"] == 0.5 and found["flops_to_least"] == 1.2
    assert figures(peer, peer)["flops_to_least"] is None


def test_questions_of_a_benchmark(testbed_model_dir, data_dir):
    """Five questions of two turns."""
    from harness.perf.evaluation import EvaluationSubject, Machine, QuestionSet

    machine = Machine(str(testbed_model_dir), 4, 1, "cpu", "auto")
    record = EvaluationSubject("ours", QuestionSet("mt-bench", data_dir, 5, 3), machine).round()
    assert len(record["answers"]) == 10 and record["computed"] <= record["needed"] and record["seconds"] > 0


def test_log_probabilities_of_a_benchmark(testbed_model_dir, data_dir):
    """Three questions with five examples: the same letters, and ours reads the examples once, each letter never."""
    from harness.perf.evaluation import CONTENDERS, EvaluationSubject, Machine, QuestionSet

    asked = QuestionSet("mmlu", data_dir, 3, 1, ("anatomy",))
    subjects = {
        name: EvaluationSubject(name, asked, Machine(str(testbed_model_dir), 4, 1, "cpu", "auto"))
        for name in CONTENDERS
    }
    records = {name: subject.round() for name, subject in subjects.items()}
    peer, ours = records["transformers"], records["ours"]
    assert len(peer["answers"]) == 3 and len(peer["logprobs"]) == 12
    for record in records.values():
        assert record["answers"] == peer["answers"] and record["needed"] == peer["needed"]
        assert record["logprobs"] == pytest.approx(peer["logprobs"], abs=1e-3)
    assert ours["computed"] < peer["needed"] / 2 < peer["computed"] / 4
    assert ours["least"] <= subjects["ours"].flops() < 1.2 * ours["least"]
    assert subjects["transformers"].flops() > 5 * ours["least"]


def test_sections_are_those_of_the_benchmark(testbed_model_dir, data_dir):
    from harness.perf.evaluation import EvaluationSubject, Machine, QuestionSet

    machine = Machine(str(testbed_model_dir), 4, 1, "cpu", "auto")
    for benchmark, message in (
        ("mmlu", "mmlu has no questions of anatomie"),
        ("mt-bench", "mt-bench have no sections"),
    ):
        with pytest.raises(UserError, match=message):
            EvaluationSubject("ours", QuestionSet(benchmark, data_dir, 3, 1, ("anatomie",)), machine).round()


class Seen:
    """Stands in for a model's FLOPs: the work that it is asked about."""

    def forward(self, work):
        return work


def test_the_least_work_by_hand():
    """(1, 2, 3) and (1, 2, 4) are 4 tokens; each has a logit after it, and 4 another after (5, 6), as their first."""
    from harness.perf.flops import least

    read = least(Seen(), [(1, 2, 3), (1, 2, 4), (1, 2, 4)], [(7,), (5, 6, 8), (9,)])
    assert read.positions == 6 and read.logits == 4
    assert read.attended(None) == 3 + 3 + 3 + 4 + 5
    sampled = least(Seen(), [(1, 2, 3), (1, 2, 4)], [(7, 7), (7, 8, 9)], sampled=True)
    assert sampled.positions == 4 + 1 + 2 and sampled.logits == 5 and sampled.attended(None) == 3 + 3 + 3 + 4 + 4 + 5
