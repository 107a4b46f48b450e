"""Plans are made without loading a model, from its tokenizer and the headers of its tensors."""

import json
import shutil
import subprocess
import sys

import pytest

from harness.errors import UserError
from harness.experiment import registry
from harness.experiment.options import Experiment
from harness.models.weights import parameter_count
from harness.runs.inputs import load_prompts
from harness.stages.plan import estimate, measure_lengths, model_folder
from harness.types import Prompt


def ask(*texts):
    return [Prompt(str(index), ({"role": "user", "content": text},)) for index, text in enumerate(texts)]


def test_parameters_are_counted_from_the_headers(tiny_model_dir):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    assert parameter_count(tiny_model_dir) == sum(weight.numel() for weight in model.parameters())


def test_lengths_are_those_of_the_templated_prompts(tiny_model_dir):
    # the tokenizer has a token a byte; the template adds <|user|>, <|end|> and <|assistant|>
    experiment = Experiment(model=str(tiny_model_dir), completion_tokens=30)
    lengths = measure_lengths(experiment, ask("abcd", "abcdef"))
    assert lengths.prompt == 5 + 3
    assert lengths.system == len("word " * 40) + 2
    assert lengths.completion == 30


@pytest.mark.parametrize(
    ("template", "system"),
    [
        (  # in the manner of Gemma: a system message goes into the user's, after it two new lines
            "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
            "{% for message in messages %}{{ '<|user|>' + message['content'] + '<|end|>' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}",
            len("word " * 40) + 2,
        ),
        (  # blocks and statements that only transformers has
            "{% for message in messages %}{% generation %}{{ '<|user|>' + message['content'] + '<|end|>' }}"
            "{% endgeneration %}{% if loop.last %}{% break %}{% endif %}{% endfor %}{{ '<|assistant|>' }}",
            len("word " * 40) + 2,
        ),
    ],
    ids=["no system role", "blocks of transformers"],
)
def test_templates_that_transformers_takes(tiny_model_dir, tmp_path, template, system):
    shutil.copytree(tiny_model_dir, tmp_path / "model")
    (tmp_path / "model/chat_template.jinja").write_text(template)
    lengths = measure_lengths(Experiment(model=str(tmp_path / "model")), ask("abcd", "abcdef"))
    assert (lengths.prompt, lengths.system) == (5 + 3, system)


def test_a_model_that_is_not_here(tmp_path):
    with pytest.raises(UserError, match="no model at"):
        model_folder("nobody/no-such-model")
    with pytest.raises(UserError, match="safetensors only"):
        parameter_count(tmp_path)


def test_every_method_is_planned_within_the_cap(testbed_model_dir):
    names = tuple(name for name in registry.names("method") if name != "base")
    experiment = Experiment(methods=names, budget="1e12")
    planned = estimate(experiment, *load_prompts(experiment))
    assert list(planned["methods"]) == ["base", *names]
    assert planned["methods"]["base"]["flops"] == 0
    for name in names:
        assert 0.98e12 < planned["methods"][name]["flops"] <= 1e12, name
    sso = planned["methods"]["sso"]["stages"]
    assert [stage["stage"] for stage in sso] == ["generator", "policy"]
    assert sso[0]["flops"] == pytest.approx(sso[1]["flops"], rel=0.01)


def test_planning_needs_no_model_in_memory(testbed_model_dir):
    code = (
        "import sys; sys.argv = ['harness', 'estimate', '--method', 'sso', '--ledger', 'nominal', '--json']\n"
        "from harness.cli import main\n"
        "from harness.runs import machine_speed\n"
        "machine_speed.of_machine = lambda *_: None\n"  # measuring this machine takes the model
        "try: main()\n"
        "finally: assert 'transformers' not in sys.modules, 'transformers was imported'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["methods"]["sso"]["updates"] > 0


def test_passes_over_few_prompts_are_planned(testbed_model_dir):
    experiment = Experiment(methods=("dpo",), budget="1e11")
    prompts, labelled = load_prompts(experiment)
    planned = estimate(experiment, prompts, labelled[:2])["methods"]["dpo"]
    assert planned["epochs"] == planned["stages"][0]["queries"] / 2 > 4


def test_a_judge_whose_size_is_given_is_planned(testbed_model_dir):
    """It reads request and answers, and takes its part of the cap: fewer queries are left."""
    chosen = {"methods": ("dpo",), "budget": "1e12", "options": {"dpo": {"data": "on-policy"}}, "judge_model": "m"}
    free, paid = (
        estimate(experiment, *load_prompts(experiment))["methods"]["dpo"]["stages"][0]
        for experiment in (Experiment(**chosen), Experiment(**chosen, judge_parameters=1e6))
    )
    assert paid["queries"] < free["queries"]
    assert paid["generate_flops"] / paid["queries"] > free["generate_flops"] / free["queries"] + 4 * 2e6 * 450
    assert max(paid["flops"], free["flops"]) <= 1e12


def test_adapters_are_planned_as_they_are_trained(testbed_model_dir):
    """Frozen weights need no gradient of their own: the same budget buys more examples."""
    whole, adapted = (
        estimate(experiment, *load_prompts(experiment))["methods"]["dpo"]
        for experiment in (Experiment(methods=("dpo",), options={"dpo": {"lora_rank": rank}}) for rank in (0, 4))
    )
    assert 1.1 * whole["trained_tokens"] < adapted["trained_tokens"] < 1.5 * whole["trained_tokens"]
