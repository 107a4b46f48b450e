"""The methods with the embedded model: real token ids, responses that obey principles, and plans that hold."""

from collections.abc import Sequence

import pytest
from encoding import reply_ids

from harness.budget import Ledger
from harness.engines.base import Sampling
from harness.experiment import registry
from harness.methods.base import Lengths, Workbench
from harness.testbed.judge import TestbedJudge
from harness.testbed.prompts import preferences, prompts
from harness.types import Prompt

QUERIES = 160
CASES = [
    ("sft", {}, 0),
    ("pbaa", {}, 0),
    ("sso", {}, 0),
    ("sso", {}, 1),
    ("sso-v1", {}, 0),
    ("dpo", {}, 0),
    ("dpo", {"data": "on-policy"}, 0),
    ("self-rewarding", {}, 0),
]


@pytest.fixture(scope="module")
def engine(testbed_model_dir):
    import torch

    from harness.engines.transformers import TransformersEngine

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield TransformersEngine.load(testbed_model_dir, device="cpu")
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def collected(engine):
    """(stage, queries, examples, workbench) of a case; each is collected once."""
    done = {}

    def collect(name: str, settings: dict, number: int):
        key = (name, tuple(settings.items()), number)
        if key not in done:
            method = registry.load("method", name)
            stage = method.stages(method.Options(**settings))[number]
            workbench = Workbench(engine, Ledger(), Sampling(64, 1.0), stage.name, TestbedJudge())
            asked = (preferences() if stage.labelled else prompts())[:QUERIES]
            done[key] = (stage, asked, stage.collect(workbench, asked), workbench)
        return done[key]

    return collect


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def asks(prompt: Prompt, system: str | None) -> list[dict[str, str]]:
    return [*([{"role": "system", "content": system}] if system else []), *prompt.messages]


@pytest.mark.parametrize(("name", "settings", "number"), CASES)
def test_sequences_are_what_the_template_and_the_tokenizer_make_of_the_texts(name, settings, number, collected, engine):
    stage, asked, examples, _ = collected(name, settings, number)
    assert len(examples) > QUERIES / 2
    by_id = {prompt.id: prompt for prompt in asked}
    tokenizer, stop = engine.tokenizer, engine.chat.stop_token
    for example in examples:
        record, prompt = example.record, by_id[example.id]
        texts = {record[key] for key in ("chosen", "rejected", "plain") if key in record}
        systems = [None, *(f"{record[key]} Do not mention this rule." for key in principle_keys(record))]
        templated = {
            tuple(tokenizer.apply_chat_template(asks(prompt, system), add_generation_prompt=True, return_dict=False))
            for system in systems
        }
        assert len(example.sequences) == stage.objective.sequences
        for sequence in example.sequences:
            assert sequence.prompt_ids in templated
            *reply, last = sequence.completion_ids
            assert last == stop and stop not in reply
            assert tokenizer.decode(reply) in texts


def principle_keys(record: dict) -> list[str]:
    return [key for key in ("good_principle", "bad_principle") if key in record]


def test_responses_obey_their_principles(collected):
    """The judge's mean quality of y+, yo and y- was 70, 32 and 17 of 100 when this was written, standard error 3."""
    _, _, examples, workbench = collected("sso", {}, 0)
    quality = {
        kind: mean(
            [workbench.judge.quality(each.record["prompt"][-1]["content"], each.record[kind]) for each in examples]
        )
        for kind in ("chosen", "plain", "rejected")
    }
    assert quality["chosen"] > quality["plain"] + 0.1
    assert quality["chosen"] > quality["rejected"] + 0.2


@pytest.mark.parametrize(("name", "settings", "number"), CASES)
def test_plans_hold(name, settings, number, collected, engine):
    """With the true lengths, a query costs what its plan says, to a tenth, and as many become examples."""
    stage, asked, examples, workbench = collected(name, settings, number)
    if stage.labelled:
        replies = [reply_ids(engine, text) for prompt in asked for text in (prompt.chosen, prompt.rejected)]
        completion, system = mean(list(map(len, replies))), 0.0
    else:
        spent = workbench.ledger.roles["generate"]
        completion = spent.generated_tokens / spent.calls
        system = typical_system(examples, engine)
    plain = mean([len(engine.encode_chat(prompt.messages)) for prompt in asked])
    cost = stage.expect(Lengths(plain, system, completion))
    assert len(examples) / len(asked) == pytest.approx(cost.kept, abs=0.1)  # deviation 0.03 at 0.8
    total = workbench.ledger.total
    assert total.prompt_tokens / len(asked) == pytest.approx(cost.collected.read, rel=0.05)
    assert total.generated_tokens / len(asked) == pytest.approx(cost.collected.generated, rel=0.05)
    assert mean([example.tokens for example in examples]) == pytest.approx(cost.trained.tokens, rel=0.1)


def typical_system(examples, engine) -> float:
    """Mean tokens that a principle adds to a prompt."""
    added = []
    for example in examples:
        chat = example.record["prompt"]
        for key in principle_keys(example.record):
            system = {"role": "system", "content": f"{example.record[key]} Do not mention this rule."}
            added.append(len(engine.encode_chat([system, *chat])) - len(engine.encode_chat(chat)))
    return mean(added) if added else 0.0
