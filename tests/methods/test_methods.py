"""Every method's stages, with an engine whose replies are scripted: what is trained on, dropped and charged."""

import math
from dataclasses import replace

import pytest
from scripted_engine import MARKS, STOP, ScriptedEngine, bench_of, ids

import baselines.self_rewarding
import sso.responses
from baselines.apo import APO
from baselines.base import Base
from baselines.best_of_n import BestOfN
from baselines.cpo import CPO
from baselines.dpo import DPO
from baselines.hinge import Hinge
from baselines.ipo import IPO
from baselines.kto import KTO
from baselines.longest_wins import LongestWins
from baselines.online_dpo import OnlineDPO
from baselines.orpo import ORPO
from baselines.pbaa import PBAA
from baselines.random_labels import RandomLabels
from baselines.rloo import RLOO
from baselines.robust import Robust
from baselines.self_rewarding import SelfRewarding, expected_score, judge_prompt, mean_score, parse_score
from baselines.sft import SFT
from baselines.simpo import SimPO
from baselines.sppo import SPPO
from baselines.swapped_labels import SwappedLabels
from harness.endpoints.base import JudgeReply
from harness.engines.base import Completion, LogProb
from harness.errors import UserError
from harness.judges.rating import PROMPT
from harness.methods.base import Lengths
from harness.stages.collect import training_flops
from harness.training.losses import PreferenceObjective, RLOOObjective, SFTObjective
from harness.types import Prompt
from harness.work import Nominal
from sso.method import SSO
from sso.objective import GeneratorObjective, WeightedObjective
from sso.principles import WRITING, draw_principle, load_set, with_principle
from sso.responses import drop_reason
from sso.version1 import SSOVersion1

END = chr(STOP)
ASK = "What is 3+4?"
KINDS = ("good", "bad", "plain")


def prompts(number: int = 3) -> list[Prompt]:
    return [Prompt(f"p{index}", ({"role": "user", "content": f"{ASK} ({index})"},)) for index in range(number)]


def by_kind(chat: str, item: str) -> str:
    """Replies of the same length that say which prompt and which of its three responses they are: "p0 good "."""
    _, name, kind = item.split("/")
    return f"{name} {kind:<5}{END}"


def chats(prompt: Prompt, options, seed: int = 0) -> dict[str, tuple[int, ...]]:
    """Token ids of x, x+ and x-."""
    texts = load_set(options.principle_set)
    drawn = draw_principle(prompt, texts, options.features, seed)
    encode = ScriptedEngine().encode_chat
    return {
        "plain": encode(prompt.messages),
        "good": encode(with_principle(prompt.chat, drawn.good, texts.do_not_reveal)),
        "bad": encode(with_principle(prompt.chat, drawn.bad, texts.do_not_reveal)),
    }


def collect(method, options, engine=None, asked=None, stage=0, judge=None, seed=0):
    """(examples, workbench) of a stage."""
    bench = bench_of(engine or ScriptedEngine(by_kind), judge, seed)
    stages = method.stages(options)
    return stages[stage].collect(bench, prompts() if asked is None else asked), bench


def test_prompts_that_outgrow_the_context_are_counted_and_dropped():
    engine = ScriptedEngine(by_kind)
    longest = {kind: [len(chats(each, PBAA.Options())[kind]) for each in prompts()] for kind in ("good", "bad")}
    engine.context_length = max(map(max, longest.values()))  # one that is as long leaves no room for a completion
    beyond = sum(length >= engine.context_length for lengths in longest.values() for length in lengths)
    examples, bench = collect(PBAA(), PBAA.Options(), engine)
    assert bench.events == {"prompt longer than the context": beyond}
    assert len(examples) == 3 - bench.discarded["unfinished"] < 3
    assert bench.ledger.roles["generate"].calls == len(engine.asked) == 6 - beyond


# ---- the sequences of each method


# of each sequence: which prompt (x, x+ or x-), and which response (y+, y- or yo)
SEQUENCES = [
    (SFT(), 0, {}, [("plain", "good")]),
    (PBAA(), 0, {}, [("plain", "good"), ("plain", "bad")]),
    (SSO(), 1, {}, [("plain", "good"), ("plain", "bad")]),
    (SSO(), 0, {}, [("good", "good"), ("good", "bad"), ("bad", "plain"), ("bad", "good")]),
    (
        SSO(),
        0,
        {"negative": "alternative"},
        [("good", "good"), ("good", "bad"), ("bad", "bad"), ("bad", "good")],
    ),
    (SSO(), 0, {"use_negative": False}, [("good", "good"), ("good", "bad")]),
    (SSO(), 0, {"use_positive": False}, [("bad", "plain"), ("bad", "good")]),
    (
        SSOVersion1(),
        0,
        {},
        [("plain", "good"), ("plain", "bad"), ("good", "good"), ("good", "bad"), ("bad", "plain"), ("bad", "good")],
    ),
    (SSOVersion1(), 2, {"auxiliary": 0.0}, [("plain", "good"), ("plain", "bad")]),
]


@pytest.mark.parametrize(("method", "stage", "settings", "wanted"), SEQUENCES)
def test_sequences_are_the_sampled_ids_behind_x_and_its_principles(method, stage, settings, wanted):
    options = method.Options(**settings)
    examples, bench = collect(method, options, stage=stage, seed=4)
    assert [example.id for example in examples] == ["p0", "p1", "p2"]
    for example, prompt in zip(examples, prompts(), strict=True):
        encoded = chats(prompt, options, seed=4)
        assert [(each.prompt_ids, each.completion_ids) for each in example.sequences] == [
            (encoded[chat], ids(f"{prompt.id} {kind:<5}{END}")) for chat, kind in wanted
        ]
        assert example.record["prompt"] == list(prompt.messages)
        sampled = {name: example.record.get(name) for name in ("chosen", "rejected")}
        rejected = None if method.name == "sft" else f"{prompt.id} bad  "
        assert sampled == {"chosen": f"{prompt.id} good ", "rejected": rejected}
    assert len(wanted) == method.stages(options)[stage].objective.sequences
    assert bench.discarded == {}


def test_responses_are_sampled_under_x_and_its_principles_with_a_key_each():
    options = SSO.Options()
    engine = ScriptedEngine(by_kind)
    collect(SSO(), options, engine)
    encoded = {prompt.id: chats(prompt, options) for prompt in prompts()}
    assert len(engine.asked) == 9
    for chat, item, sampling in engine.asked:
        stage, name, kind = item.split("/")
        assert stage == "policy"
        assert ids(chat) == encoded[name][kind]
        assert (sampling.temperature, sampling.top_p, sampling.max_new_tokens) == (0.7, 0.9, 64)
    assert len({item for _, item, _ in engine.asked}) == 9


@pytest.mark.parametrize(
    ("method", "settings", "kinds"),
    [
        (SFT(), {}, {"good"}),
        (PBAA(), {}, {"good", "bad"}),
        (SSO(), {"use_negative": False}, {"good", "bad"}),
        (SSO(), {"negative": "alternative"}, {"good", "bad"}),
        (SSO(), {"use_positive": False}, {"good", "bad", "plain"}),
        (SSOVersion1(), {"auxiliary": 0.0}, {"good", "bad"}),
        (SSOVersion1(), {}, {"good", "bad", "plain"}),
    ],
)
def test_no_budget_goes_into_responses_that_the_loss_does_not_read(method, settings, kinds):
    _, bench = collect(method, method.Options(**settings))
    assert {item.split("/")[2] for _, item, _ in bench.engine.asked} == kinds


def test_a_prompts_own_system_message_stays():
    asked = [Prompt("p0", ({"role": "system", "content": "You are a poet."}, *prompts(1)[0].messages))]
    (example,), _ = collect(SSO(), SSO.Options(), asked=asked)
    plain, good = (ScriptedEngine.text(example.sequences[index].prompt_ids) for index in (2, 0))
    assert good.startswith(f"{MARKS['system']}You are a poet.\n\n")
    assert plain.startswith(f"{MARKS['system']}You are a poet.\n\n") and plain != good
    assert good.count(MARKS["system"]) == 1


# ---- drops


def completion(text: str, finished: bool = True) -> Completion:
    return Completion(ids(text), text, finished)


@pytest.mark.parametrize(
    ("responses", "reason"),
    [
        ([completion("a"), completion("b")], None),
        ([completion("a"), completion("b", finished=False)], "unfinished"),
        ([completion(""), completion("b")], "empty"),
        ([completion("a"), completion(" \n")], "empty"),
        ([completion("a"), completion("b"), completion("c")], None),
    ],
)
def test_drop_reasons(responses, reason):
    assert drop_reason(responses) == reason


REPLIES = {
    "p0": {"good": "a" + END, "bad": "b" + END, "plain": "c" + END},
    "p1": {"good": "a", "bad": "b" + END, "plain": "c" + END},  # y+ is unfinished
    "p2": {"good": "a" + END, "bad": " " + END, "plain": "c" + END},  # y- is empty
    "p3": {"good": "a" + END, "bad": "a" + END, "plain": "c" + END},  # y+ equals y-
    "p4": {"good": "a" + END, "bad": "b" + END, "plain": "b" + END},  # yo equals y-
    "p5": {"good": "a" + END, "bad": "b" + END, "plain": "c"},  # yo is unfinished
}


@pytest.mark.parametrize(
    ("method", "kept", "dropped"),
    [
        (PBAA(), ["p0", "p4", "p5"], {"unfinished": 1, "empty": 1, "equal responses": 1}),
        (SFT(), ["p0", "p2", "p3", "p4", "p5"], {"unfinished": 1}),
        (SSO(), ["p0"], {"unfinished": 2, "empty": 1, "equal responses": 2}),
        (SSOVersion1(), ["p0"], {"unfinished": 2, "empty": 1, "equal responses": 2}),
    ],
    ids=["pbaa", "sft", "sso", "sso-v1"],
)
def test_dropped_queries_are_counted_by_reason_and_charged(method, kept, dropped):
    def script(chat, item):
        _, name, kind = item.split("/")
        return REPLIES[name][kind]

    examples, bench = collect(method, method.Options(), ScriptedEngine(script), prompts(6))
    assert [example.id for example in examples] == kept
    assert bench.discarded == dropped
    responses = {"sft": 1, "pbaa": 2, "sso": 3, "sso-v1": 3}[method.name]
    assert bench.ledger.roles["generate"].calls == 6 * responses


def test_no_prompts_give_no_examples():
    for method in (SFT(), PBAA(), SSO(), SSOVersion1(), SelfRewarding(), DPO(), SPPO()):
        assert collect(method, method.Options(), asked=[])[0] == []


# ---- the ledger against the plan


def means(asked: list[Prompt], options, completion_tokens: int, sides=("good", "bad")) -> Lengths:
    encoded = [chats(prompt, options) for prompt in asked]
    plain = sum(len(each["plain"]) for each in encoded) / len(encoded)
    system = sum(len(each[side]) for each in encoded for side in sides) / (len(sides) * len(encoded)) - plain
    return Lengths(plain, system, completion_tokens)


def check_ledger(method, options, examples, bench, lengths, queries, stage=0):
    """The plan's tokens and FLOPs for so many queries are those of the ledger, given how many became examples."""
    plan = method.stages(options)[stage]
    cost = plan.expect(lengths)
    cost = replace(cost, kept=len(examples) / queries)
    total = bench.ledger.total
    assert total.prompt_tokens == pytest.approx(queries * cost.collected.read)
    assert total.generated_tokens == pytest.approx(queries * cost.collected.generated)
    assert sum(example.tokens for example in examples) == pytest.approx(len(examples) * cost.trained.tokens)
    of_model = Nominal(bench.engine.parameters)
    spent = bench.ledger.flops + sum(training_flops(plan, each, of_model) for each in examples)
    assert spent == pytest.approx(queries * cost.flops(of_model, plan.objective.needs_reference))


@pytest.mark.parametrize(
    ("method", "stage", "settings"),
    [
        (SFT(), 0, {}),
        (PBAA(), 0, {}),
        (PBAA(), 0, {"loss": "simpo"}),
        (SSO(), 0, {}),
        (SSO(), 0, {"negative": "alternative"}),
        (SSO(), 1, {}),
        (SSO(), 0, {"loss": "orpo", "features": 1}),
        (SSOVersion1(), 0, {}),
        (SSOVersion1(), 1, {"auxiliary": 0.0}),
    ],
)
@pytest.mark.parametrize("principle_set", ["testbed", "general"])
def test_the_ledger_has_what_was_planned(method, stage, settings, principle_set):
    options = method.Options(principle_set=principle_set, **settings)
    asked = prompts(8)
    examples, bench = collect(method, options, asked=asked, stage=stage)
    assert len(examples) == 8
    sides = ("good",) if method.name == "sft" else ("good", "bad")
    check_ledger(method, options, examples, bench, means(asked, options, len("p0 good ") + 1, sides), 8, stage)


@pytest.mark.parametrize("side", ["use_positive", "use_negative"])
def test_the_ledger_of_half_a_generator(side):
    """Good and bad principles differ in length, and only one of them is trained on."""
    options = SSO.Options(**{side: False})
    asked = prompts(8)
    examples, bench = collect(SSO(), options, asked=asked)
    lengths = means(asked, options, len("p0 good ") + 1)
    cost = SSO().stages(options)[0].expect(lengths)
    assert bench.ledger.total.prompt_tokens == pytest.approx(8 * cost.collected.read)
    assert sum(example.tokens for example in examples) == pytest.approx(8 * cost.trained.tokens, rel=0.1)


@pytest.mark.parametrize("method", [SFT(), PBAA(), SSO(), SSOVersion1()])
def test_the_ledger_has_what_was_planned_when_the_policy_writes_principles(method, monkeypatch):
    good, bad = "Be right.", "Be wrong."
    written = f"Good: {good}\nBad: {bad}"

    def script(chat, item):
        if item.endswith("/principles"):
            return written + END
        return by_kind(chat, item)[:-1].ljust(len(written)) + END

    monkeypatch.setattr(sso.responses, "WRITING_TOKENS", len(WRITING) - len("{query}"))
    options = method.Options(principles="self")
    asked = prompts(4)
    examples, bench = collect(method, options, ScriptedEngine(script), asked)
    plain = [len(ScriptedEngine().encode_chat(prompt.messages)) for prompt in asked]
    system = len(MARKS["system"] + good + load_set("testbed").do_not_reveal)
    lengths = Lengths(sum(plain) / 4, system, len(written) + 1)
    assert set(bench.ledger.roles) == {"principles", "generate"}
    assert examples[0].record["good_principle"] == good and examples[0].record["features"] == ["written"]
    check_ledger(method, options, examples, bench, lengths, 4)


def test_the_filters_forward_passes_are_planned(monkeypatch):
    monkeypatch.setitem(sso.responses.KEPT, 3, 1.0)  # here every query gets as far as the filter
    options = SSOVersion1.Options(filter=True)
    asked = prompts(8)
    examples, bench = collect(SSOVersion1(), options, asked=asked)
    assert (examples, bench.discarded) == ([], {"filtered": 8})  # all responses are equally likely everywhere
    check_ledger(SSOVersion1(), options, examples, bench, means(asked, options, len("p0 good ") + 1), 8)


@pytest.mark.parametrize("method", [DPO(), IPO(), SimPO(), ORPO(), Hinge(), CPO(), Robust(), SPPO(), APO()])
def test_the_ledger_of_labelled_pairs(method):
    asked = [replace(prompt, chosen="right", rejected="wrong") for prompt in prompts(4)]
    examples, bench = collect(method, method.Options(), asked=asked)
    assert (bench.ledger.total.calls, len(examples)) == (0, 4)
    plain = sum(len(ScriptedEngine().encode_chat(prompt.messages)) for prompt in asked) / 4
    check_ledger(method, method.Options(), examples, bench, Lengths(plain, 0, 6), 4)


# ---- principles that the policy writes


def test_principles_that_were_not_written_are_counted_and_replaced():
    def script(chat, item):
        if not item.endswith("/principles"):
            return by_kind(chat, item)
        return {
            "p0": f"Good: Be right.\nBad: Be wrong.{END}",
            "p1": f"I do not know.{END}",
            "p2": "Good: Be right.\nBad: Be wr",  # cut off
        }[item.split("/")[1]]

    examples, bench = collect(PBAA(), PBAA.Options(principles="self"), ScriptedEngine(script))
    assert bench.events == {"principles not written": 2}
    assert [example.record["good_principle"] == "Be right." for example in examples] == [True, False, False]
    drawn = draw_principle(prompts()[1], load_set("testbed"), 2, 0)
    assert examples[1].record["features"] == list(drawn.features)
    asked = [chat for chat, item, _ in bench.engine.asked if item.endswith("/principles")]
    assert f"{ASK} (0)" in asked[0]


# ---- stages


def test_sso_trains_a_generator_and_then_the_policy_anew():
    generator, policy = SSO().stages(SSO.Options(generator_share=0.3))
    assert (generator.name, generator.generator, generator.start) == ("generator", "base", "current")
    assert (policy.name, policy.generator, policy.start) == ("policy", "current", "base")
    assert (generator.share, policy.share) == (0.3, pytest.approx(0.7))
    assert isinstance(generator.objective, GeneratorObjective)
    assert isinstance(policy.objective, PreferenceObjective)
    assert not (generator.labelled or policy.labelled)


@pytest.mark.parametrize("method", [SSOVersion1(), SelfRewarding()])
def test_iterations_go_on_from_the_current_policy(method):
    stages = method.stages(method.Options(iterations=4))
    assert [stage.name for stage in stages] == [f"iteration-{number}" for number in (1, 2, 3, 4)]
    assert all((stage.generator, stage.start) == ("current", "current") for stage in stages)
    assert math.fsum(stage.share for stage in stages) == pytest.approx(1)


def test_settings_reach_the_objectives():
    loss = {"loss": "ipo", "beta": 0.3, "ipo_average": False}
    generator, policy = SSO().stages(SSO.Options(**loss, gamma=0.4, use_negative=False, negative="alternative"))
    assert generator.objective == GeneratorObjective(**loss, gamma=0.4, use_negative=False, negative="alternative")
    assert policy.objective == PreferenceObjective(**loss)
    weighting = dict(auxiliary=0.5, weight=False, weight_form="released", alpha=0.5, detach_weight=True)
    assert SSOVersion1().stages(SSOVersion1.Options(**loss, **weighting))[0].objective == WeightedObjective(
        **loss, **weighting
    )
    assert PBAA().stages(PBAA.Options(**loss))[0].objective == PreferenceObjective(**loss)
    assert isinstance(SFT().stages(SFT.Options())[0].objective, SFTObjective)
    assert DPO().stages(DPO.Options(beta=0.3))[0].objective == PreferenceObjective(loss="dpo", beta=0.3)
    assert SelfRewarding().stages(SelfRewarding.Options(beta=0.3))[0].objective == PreferenceObjective(beta=0.3)


@pytest.mark.parametrize("average", [True, False])
def test_ipo_of_averages_or_sums(average):
    options = IPO.Options(average=average, beta=0.3)
    assert IPO().stages(options)[0].objective == PreferenceObjective(loss="ipo", beta=0.3, ipo_average=average)
    assert IPO().supervision(options) == f"labelled pairs; {'average' if average else 'sum'} log-probabilities"


@pytest.mark.parametrize("method", [SFT(), PBAA(), SSO(), SSOVersion1(), DPO(), IPO(), SelfRewarding()])
def test_training_options_reach_every_stage(method):
    options = method.Options(learning_rate=1e-6, batch_size=8)
    stages = method.stages(options)
    assert all(stage.training is options for stage in stages)
    assert math.fsum(stage.share for stage in stages) == pytest.approx(1)


def test_base_has_no_stages():
    assert Base().stages(Base.Options()) == []
    assert Base().supervision(Base.Options()) == "none"


def test_supervision_is_named():
    assert DPO().supervision(DPO.Options()) == "labelled pairs"
    assert DPO().supervision(DPO.Options(data="on-policy")) == "the judge"
    assert SelfRewarding().supervision(SelfRewarding.Options()) == "its own judgments"
    for method in (SFT(), PBAA(), SSO(), SSOVersion1()):
        assert method.supervision(method.Options()) == "principles (fixed)"
        assert method.supervision(method.Options(principles="self")) == "principles (self)"
        written = method.Options(principles="model", principle_model="org/writer-3b")
        assert method.supervision(written) == "principles (writer-3b)"


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        (SSO, {"generator_share": 1}, "generator_share must be between 0 and 1, not 1"),
        (SSO, {"generator_share": 0}, "generator_share must be between 0 and 1"),
        (SSO, {"use_positive": False, "use_negative": False}, "both are off"),
        (SSO, {"negative": "other"}, "negative must be one of paper, alternative"),
        (SSO, {"loss": "dp0"}, "unknown loss 'dp0': did you mean 'dpo'"),
        (SSO, {"beta": 0}, "beta must be above 0"),
        (SSO, {"principles": "other"}, "principles must be one of fixed, self, model, not 'other'"),
        (SSO, {"features": 0}, "features must be at least 1"),
        (SSO, {"principle_set": "nice"}, "no principle set 'nice'"),
        (SSOVersion1, {"iterations": 0}, "iterations must be at least 1"),
        (SSOVersion1, {"weight_form": "other"}, "weight_form must be one of paper, released"),
        (SFT, {"features": 0}, "features must be at least 1"),
        (PBAA, {"loss": "other"}, "unknown loss 'other'"),
        (DPO, {"data": "online"}, "data must be one of offline, on-policy"),
        (DPO, {"candidates": 1}, "candidates must be at least 2"),
        (DPO, {"reference": "moving"}, "reference must be one of fixed, sync"),
        (DPO, {"ref_model_sync_steps": 0}, "ref_model_sync_steps must be at least 1"),
        (DPO, {"ref_model_mixup_alpha": 0}, "ref_model_mixup_alpha above 0 and at most 1"),
        (DPO, {"reference": "sync", "lora_rank": 2}, "leave out lora_rank, or set reference=fixed"),
        (IPO, {"beta": -1}, "beta must be above 0"),
        (SimPO, {"simpo_gamma": -1}, "simpo_gamma must be at least 0"),
        (KTO, {"micro_batch_size": 1}, "micro_batch_size and batch_size must be at least 2"),
        (KTO, {"beta": 0.0}, "beta must be above 0"),
        (KTO, {"desirable_weight": -1}, "must be at least 0"),
        (SFT, {"data": "other"}, "data must be one of principles, demonstrations"),
        (BestOfN, {"candidates": 1}, "candidates must be at least 2"),
        (RLOO, {"candidates": 1}, "candidates at least 2"),
        (RLOO, {"epsilon": 1}, "epsilon must be above 0 and below 1"),
        (OnlineDPO, {"rounds": 0}, "rounds must be at least 1"),
        (CPO, {"cpo_alpha": -1}, "cpo_alpha must be at least 0"),
        (Robust, {"label_smoothing": 0.5}, "label_smoothing must be at least 0 and below 0.5"),
        (APO, {"variant": "up"}, "variant must be one of zero, down"),
        (SelfRewarding, {"judge_prompt": "long"}, "judge_prompt must be one of short, additive"),
        (SelfRewarding, {"candidates": 1}, "candidates at least 2"),
        (SelfRewarding, {"judge_samples": 0}, "judge_samples must be at least 1"),
        (SelfRewarding, {"judge_prompt": "additive"}, "judge_max_new_tokens=8 cuts judgments off"),
    ],
)
def test_options_that_do_not_fit(method, settings, message):
    with pytest.raises(UserError, match=message):
        method().stages(method.Options(**settings))


# ---- labelled pairs


def test_labelled_pairs_are_encoded_once_and_equal_ones_dropped():
    asked = [
        replace(prompts()[0], chosen="right", rejected="wrong"),
        replace(prompts()[1], chosen="same", rejected="same"),
    ]
    assert DPO().stages(DPO.Options())[0].labelled
    (example,), bench = collect(DPO(), DPO.Options(), asked=asked)
    query = ScriptedEngine().encode_chat(asked[0].messages)
    assert [(each.prompt_ids, each.completion_ids) for each in example.sequences] == [
        (query, ids(f"right{END}")),
        (query, ids(f"wrong{END}")),
    ]
    assert bench.discarded == {"equal responses": 1}
    assert example.record == {"prompt": list(asked[0].messages), "chosen": "right", "rejected": "wrong"}


# ---- replies without a partner


def test_kto_takes_both_replies_of_a_pair_and_those_of_another_prompt():
    asked = [
        replace(prompts()[0], chosen="right 0", rejected="wrong 0"),
        replace(prompts()[1], completion="fine 1", label=True),
        replace(prompts()[2], completion="bad 2", label=False),
        replace(prompts()[2], id="p3", completion="fine 2", label=True),  # the same prompt once more
    ]
    stage = KTO().stages(KTO.Options())[0]
    assert stage.labelled and stage.rows == "labels"
    examples, bench = collect(KTO(), KTO.Options(), asked=asked)
    texts = [[ScriptedEngine.text(each.completion_ids).removesuffix(END) for each in e.sequences] for e in examples]
    assert texts == [
        ["right 0", "fine 2"],
        ["wrong 0", "fine 2"],
        ["fine 1", "right 0"],
        ["bad 2", "fine 1"],
        ["fine 2", "fine 1"],
    ]
    assert [example.targets for example in examples] == [(1, 1), (-1, 1), (1, 1), (-1, 1), (1, 1)]
    assert [example.id for example in examples] == ["p0/0", "p0/1", "p1/0", "p2/0", "p3/0"]
    assert examples[3].record == {"prompt": list(prompts()[2].messages), "completion": "bad 2", "label": False}
    for example in examples:
        assert len({each.prompt_ids for each in example.sequences}) == 1
    alone, bench = collect(KTO(), KTO.Options(), asked=asked[:1])
    assert (alone, bench.discarded) == ([], {"no other prompt to estimate the divergence from": 2})


def test_the_ledger_of_kto():
    asked = [replace(prompt, chosen=f"right {prompt.id}", rejected=f"wrong {prompt.id}") for prompt in prompts(4)]
    examples, bench = collect(KTO(), KTO.Options(), asked=asked)
    plain = sum(len(ScriptedEngine().encode_chat(prompt.messages)) for prompt in asked) / 4
    check_ledger(KTO(), KTO.Options(), examples, bench, Lengths(plain, 0, 9), 4)


def test_demonstrations():
    asked = [
        replace(prompts()[0], chosen="right", rejected="wrong"),
        replace(prompts()[1], completion="fine"),
        replace(prompts()[2], completion="bad", label=False),
    ]
    options = SFT.Options(data="demonstrations")
    stage = SFT().stages(options)[0]
    assert stage.labelled and stage.rows == "demonstrations" and SFT().supervision(options) == "demonstrations"
    examples, bench = collect(SFT(), options, asked=asked)
    assert [example.sequences[0].completion_ids for example in examples] == [ids(f"right{END}"), ids(f"fine{END}")]
    assert bench.discarded == {"labelled as a bad reply": 1}
    assert bench.ledger.total.calls == 0


# ---- controls


def labelled(number: int) -> list[Prompt]:
    """Pairs whose chosen reply is longer in every second one."""
    replies = [("long reply", "short"), ("short", "long reply")]
    return [
        replace(prompt, chosen=chosen, rejected=rejected)
        for prompt, (chosen, rejected) in zip(prompts(number), replies * number, strict=False)
    ]


def orders(method, asked, seed=0) -> list[bool]:
    """Whether the chosen reply of each pair is still the chosen one, in its ids and in its record."""
    examples, _ = collect(method, method.Options(), asked=asked, seed=seed)
    kept = []
    for example, prompt in zip(examples, asked, strict=True):
        pair = [ScriptedEngine.text(each.completion_ids).removesuffix(END) for each in example.sequences]
        assert pair == [example.record["chosen"], example.record["rejected"]]
        assert {*pair} == {prompt.chosen, prompt.rejected}
        kept.append(pair[0] == prompt.chosen)
    return kept


def test_controls_relabel_pairs():
    asked = labelled(4)
    assert orders(DPO(), asked) == [True] * 4
    assert orders(SwappedLabels(), asked) == [False] * 4
    assert orders(LongestWins(), asked) == [True, False, True, False]
    assert {method.control_of for method in (RandomLabels, SwappedLabels, LongestWins)} == {"dpo"}


def test_random_labels_do_not_depend_on_the_labels():
    """Half of 400 fair coins with a deviation of 10; a pair given the other way round falls the same way."""
    asked = labelled(400)
    kept = orders(RandomLabels(), asked)
    assert 150 < sum(kept) < 250
    other = [replace(prompt, chosen=prompt.rejected, rejected=prompt.chosen) for prompt in asked]
    assert orders(RandomLabels(), other) == [not each for each in kept]
    again = [replace(prompt, id=f"{prompt.id}@1") for prompt in asked]  # in the next pass
    assert orders(RandomLabels(), again) == kept
    assert orders(RandomLabels(), asked, seed=1) != kept


def test_replies_of_one_length_have_no_longest():
    asked = [replace(prompts(1)[0], chosen="four", rejected="five")]
    examples, bench = collect(LongestWins(), LongestWins.Options(), asked=asked)
    assert (examples, bench.discarded) == ([], {"replies of equal length": 1})


# ---- pairs that a judge ranks


class ScriptedJudge:
    """Replies "[[n]]" with the number that an answer names, such as "answer 7"; "answer ?" gets no verdict."""

    name = "scripted"

    def __init__(self):
        self.asked = []

    def complete(self, requests, advance=None):
        self.asked += requests
        replies = []
        for request in requests:
            named = request.messages[-1]["content"].rpartition("answer ")[2].partition("\n")[0].split()[0]
            text = "I can not say." if named == "?" else f"It is fine. [[{named}]]"
            replies.append(JudgeReply(request.id, text, prompt_tokens=10, completion_tokens=5))
        return replies


def candidates(table: dict[str, list[str]]):
    def script(chat, item):
        _, name, candidate = item.split("/")
        return table[name][int(candidate.removeprefix("candidate-"))]

    return ScriptedEngine(script)


def test_the_judges_best_candidate_over_its_worst():
    engine = candidates(
        {
            "p0": [f"answer 4{END}", f"answer 9{END}", f"answer 2{END}", f"answer ?{END}"],
            "p1": [f"answer 5{END}", f"answer 5 again{END}", f"answer ?{END}", f"answer ? {END}"],
            "p2": [f"answer 5{END}", "answer 1", f"answer ?{END}", f"answer ?{END}"],
        }
    )
    judge = ScriptedJudge()
    options = DPO.Options(data="on-policy")
    assert not DPO().stages(options)[0].labelled
    (example,), bench = collect(DPO(), options, engine, judge=judge)
    query = engine.encode_chat(prompts()[0].messages)
    assert [(each.prompt_ids, each.completion_ids) for each in example.sequences] == [
        (query, ids(f"answer 9{END}")),
        (query, ids(f"answer 2{END}")),
    ]
    assert example.record["ratings"] == [4, 9, 2, None]
    assert (example.record["chosen_rating"], example.record["rejected_rating"]) == (9, 2)
    assert bench.discarded == {"equal ratings": 1, "fewer than two rated candidates": 1}
    assert bench.events == {"unparsed judgments": 5}
    assert [request.id for request in judge.asked[:5]] == ["p0/0", "p0/1", "p0/2", "p0/3", "p1/0"]
    spent = bench.ledger.roles["judge"]
    assert (spent.calls, spent.prompt_tokens, spent.generated_tokens, spent.flops) == (12, 120, 60, 0)
    assert bench.ledger.roles["generate"].calls == 12


def test_the_best_of_n():
    engine = candidates(
        {
            "p0": [f"answer 4{END}", f"answer 9{END}", "answer 10", f"answer ?{END}"],
            "p1": [f"answer ?{END}", f"answer ? {END}", f"answer ?{END}", f"answer ?{END}"],
            "p2": [f"answer 5{END}", f"answer 5 again{END}", f"answer 1{END}", f"answer ?{END}"],
        }
    )
    options = BestOfN.Options()
    examples, bench = collect(BestOfN(), options, engine, judge=ScriptedJudge())
    assert [[each.completion_ids for each in example.sequences] for example in examples] == [
        [ids(f"answer 9{END}")],
        [ids(f"answer 5{END}")],
    ]
    assert examples[0].record["chosen_rating"] == 9 and examples[0].record["ratings"] == [4, 9, 10, None]
    assert bench.discarded == {"no rated candidate": 1}
    stage = BestOfN().stages(options)[0]
    assert stage.judged and not BestOfN().stages(BestOfN.Options(reward_model="org/rewards"))[0].judged
    assert BestOfN().supervision(BestOfN.Options(reward_model="org/rewards")) == "reward model (rewards)"


def test_rloo_rewards_answers_that_equal_that_of_the_prompt():
    right, other, wrong = f"It is \\boxed{{7}}.{END}", f"So \\boxed{{\\frac{{14}}{{2}}}}.{END}", f"\\boxed{{8}}{END}"
    cut = "It is \\boxed{7}."
    engine = candidates(
        {
            "p0": [right, other, wrong, cut],
            "p1": [right] * 4,
            "p2": [wrong, f"I do not know.{END}", wrong, f"No.{END}"],
        }
    )
    options = RLOO.Options(rounds=2)
    asked = [*(replace(prompt, answer="7") for prompt in prompts()), Prompt("p3", prompts()[0].messages)]
    (example,), bench = collect(RLOO(), options, engine, asked, stage=1)
    assert [each.completion_ids for each in example.sequences] == list(map(ids, (right, other, wrong, cut)))
    assert example.record["rewards"] == [1, 1, 0, 0]
    assert example.targets == pytest.approx((2 / 3, 2 / 3, -2 / 3, -2 / 3))
    assert bench.discarded == {"no answer to check": 1, "all replies right": 1, "all replies wrong": 1}
    assert bench.ledger.roles["generate"].calls == 12
    stages = RLOO().stages(options)
    assert [stage.name for stage in stages] == ["round-1", "round-2"] and stages[0].rows == "answers"
    assert stages[0].objective == RLOOObjective(4, 0.2)


def test_online_dpo_has_a_share_of_the_budget_for_each_round():
    options = OnlineDPO.Options(rounds=4, candidates=2, beta=0.3)
    stages = OnlineDPO().stages(options)
    assert [stage.name for stage in stages] == ["round-1", "round-2", "round-3", "round-4"]
    assert sum(stage.share for stage in stages) == 1
    assert {(stage.generator, stage.start, stage.judged) for stage in stages} == {("current", "current", True)}
    assert stages[0].objective == PreferenceObjective(loss="dpo", beta=0.3)
    engine = candidates({name: [f"answer {number}{END}" for number in (3, 8)] for name in ("p0", "p1", "p2")})
    examples, bench = collect(OnlineDPO(), options, engine, judge=ScriptedJudge(), stage=2)
    assert examples[1].sequences[0].completion_ids == ids(f"answer 8{END}")
    bench.ledger.roles.pop("judge")  # not a model of ours
    check_ledger(
        OnlineDPO(), options, examples, bench, Lengths(len(engine.encode_chat(prompts()[0].messages)), 0, 9), 3
    )


def test_the_ledger_of_ranked_pairs():
    engine = candidates({name: [f"answer {number}{END}" for number in (1, 2, 3)] for name in ("p0", "p1", "p2")})
    options = IPO.Options(data="on-policy", candidates=3)
    examples, bench = collect(IPO(), options, engine, judge=ScriptedJudge())
    bench.ledger.roles.pop("judge")  # not a model of ours
    plain = len(engine.encode_chat(prompts()[0].messages))
    check_ledger(IPO(), options, examples, bench, Lengths(plain, 0, 9), 3)


def test_an_answer_of_the_judge_that_never_came_is_missing():
    class Failing(ScriptedJudge):
        def complete(self, requests, advance=None):
            first, *rest = super().complete(requests)
            return [JudgeReply(first.id, "", error="timeout"), *rest]

    engine = candidates({"p0": [f"answer 1{END}", f"answer 4{END}", f"answer 9{END}"]})
    options = DPO.Options(data="on-policy", candidates=3)
    (example,), bench = collect(DPO(), options, engine, prompts(1), judge=Failing())
    assert example.record["ratings"] == [None, 4, 9]
    assert bench.events == {"failed judgments": 1}


def test_judges_read_the_whole_conversation():
    talk = ({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}, *prompts(1)[0].messages)
    whole = f"User: Hi\n\nAssistant: Yes?\n\nUser: {ASK} (0)"
    judge = ScriptedJudge()
    engine = candidates({"p0": [f"answer 1{END}", f"answer 2{END}"]})
    collect(DPO(), DPO.Options(data="on-policy", candidates=2), engine, [Prompt("p0", talk)], judge=judge)
    assert all(f"[Question]\n{whole}\n\n" in request.messages[-1]["content"] for request in judge.asked)
    engine = judged({"p0": [scores(1), scores(5)]})
    collect(SelfRewarding(), SelfRewarding.Options(candidates=2, judge_samples=1), engine, [Prompt("p0", talk)])
    assert f"Question: {whole} Answer: 1X" in engine.asked[-1][0]


def test_ranked_pairs_need_a_judge():
    with pytest.raises(UserError, match="replies needs a judge: give --judge-model"):
        collect(DPO(), DPO.Options(data="on-policy"))


def test_marks_in_question_and_answer_stay_text():
    asked = [Prompt("p0", ({"role": "user", "content": "What is {answer}?"},))]
    judge = ScriptedJudge()
    engine = candidates({"p0": [f"{{question}} answer 1{END}", f"{{answer}} answer 2{END}"]})
    collect(DPO(), DPO.Options(data="on-policy", candidates=2), engine, asked, judge=judge)
    texts = [request.messages[-1]["content"] for request in judge.asked]
    assert texts == [
        PROMPT[: PROMPT.index("{question}")]
        + "What is {answer}?\n\n[The Start of Assistant's Answer]\n"
        + answer
        + "\n[The End of Assistant's Answer]"
        for answer in ("{question} answer 1", "{answer} answer 2")
    ]


# ---- self-rewarding


def judged(table: dict[str, list[list[str]]]):
    """An engine whose candidate n of a prompt is "nX" and whose judgments of it are given."""

    def script(chat, item):
        _, name, candidate, *judge = item.split("/")
        index = int(candidate.removeprefix("candidate-"))
        if judge:
            return table[name][index][int(judge[0].removeprefix("judge-"))] + END
        return f"{index}X{END}"

    return ScriptedEngine(script)


def scores(*numbers) -> list[str]:
    return [f"Score: {number}" for number in numbers]


def test_ratings_are_means_of_the_judgments_that_can_be_read():
    engine = judged(
        {
            "p0": [scores(1, 2, 2), scores(3, 3, 5), scores(5, "?", "?"), ["bad", "", "4"]],
            "p1": [scores(2, 2, 2), scores(1, 2, 3), scores("?", "?", "?"), scores("?", 2, "?")],
            "p2": [scores("?", "?", "?"), scores(2, 2, 1), scores("?", "?", "?"), scores("", "", "")],
        }
    )
    options = SelfRewarding.Options()
    (example,), bench = collect(SelfRewarding(), options, engine)
    # (1 + 2 + 2) / 3 and (3 + 3 + 5) / 3; one judgment of 5 alone; none, which is missing and not the lowest
    assert example.record["ratings"] == [pytest.approx(5 / 3), pytest.approx(11 / 3), 5, None]
    assert [each.completion_ids for each in example.sequences] == [ids(f"2X{END}"), ids(f"0X{END}")]
    assert bench.discarded == {"equal ratings": 1, "fewer than two rated candidates": 1}
    assert bench.events == {"unparsed judgments": 5 + 5 + 9}
    assert bench.ledger.roles["judge"].calls == 36 and bench.ledger.roles["generate"].calls == 12


def test_a_response_rated_twice_is_no_pair():
    def script(chat, item):
        if "judge" in item:
            return f"Score: {5 if 'candidate-0' in item else 1}{END}"
        return f"same{END}"

    examples, bench = collect(SelfRewarding(), SelfRewarding.Options(candidates=2), ScriptedEngine(script))
    assert (examples, bench.discarded) == ([], {"equal responses": 3})


def test_the_policy_is_asked_as_the_testbeds_model_was_taught():
    engine = judged({"p0": [scores(1), scores(5)]})
    options = SelfRewarding.Options(candidates=2, judge_samples=1)
    collect(SelfRewarding(), options, engine, prompts(1))
    chat, item, sampling = engine.asked[-1]
    text = f"Rate the answer from 0 to 5. Question: {ASK} (0) Answer: 1X"
    assert chat == MARKS["user"] + text + MARKS["assistant"]
    assert item == "policy/p0/candidate-1/judge-0"
    assert (sampling.max_new_tokens, sampling.temperature) == (8, 0.7)
    assert len({item for _, item, _ in engine.asked}) == len(engine.asked)


def test_the_additive_prompt_keeps_marks_as_text():
    text = judge_prompt("What is {answer}?", "{question}", "additive")
    assert "Question: What is {answer}?\n\nAnswer: {question}\n\n" in text


class Weighing(ScriptedEngine):
    """Candidate n of a prompt is "nX"; `odds[n]` says how likely each number of points is as the reply on it."""

    def __init__(self, odds: list[list[float]]):
        super().__init__(lambda chat, item: item[-1] + "X" + ("" if item == "policy/p2/candidate-1" else END))
        self.odds = odds

    def logprobs(self, prompts, completions, advance=None):
        for prompt in prompts:
            assert self.text(prompt).endswith("alone, from 0 to 5." + MARKS["assistant"])
        about = [int(self.text(prompt).partition("Answer: ")[2][0]) for prompt in prompts]
        points = [int(self.text(completion)) for completion in completions]
        return [LogProb(math.log(self.odds[index][number]), 1) for index, number in zip(about, points, strict=True)]


def test_weighted_ratings_are_the_mean_of_the_points_by_their_probabilities():
    odds = [[0.01, 0.01, 0.01, 0.01, 0.01, 0.05], [0.2, 0.2, 0.1, 1e-9, 1e-9, 1e-9]]
    options = SelfRewarding.Options(candidates=2, judge_prompt="weighted")
    examples, bench = collect(SelfRewarding(), options, Weighing(odds))
    assert [example.id for example in examples] == ["p0", "p1"]  # the second candidate of p2 is unfinished
    # (1 + 2 + 3 + 4) 0.01 + 5 0.05 = 0.35 of 0.10; 0.2 + 2 0.1 = 0.4 of 0.5
    assert examples[0].record["ratings"] == [pytest.approx(3.5), pytest.approx(0.8)]
    assert [each.completion_ids for each in examples[0].sequences] == [ids(f"0X{END}"), ids(f"1X{END}")]
    assert bench.discarded == {"fewer than two rated candidates": 1} and not bench.events
    assert bench.ledger.roles["judge"].calls == 5 * 6


def test_a_weighted_rating_beyond_the_context_is_missing():
    engine = Weighing([[1.0] * 6, [1.0] * 6])
    options = SelfRewarding.Options(candidates=2, judge_prompt="weighted")
    engine.context_length = len(engine.encode_chat(prompts()[0].messages)) + 10
    examples, bench = collect(SelfRewarding(), options, engine)
    assert not examples and bench.discarded == {"fewer than two rated candidates": 3}
    assert bench.events == {"prompt longer than the context": 5} and bench.ledger.roles["judge"].calls == 0


@pytest.mark.parametrize(
    ("logprobs", "score"), [([0.0] * 6, 2.5), ([-1e3, -1e3, -1e3, -1e3 + math.log(3), -1e9, -1e9], (0 + 1 + 2 + 9) / 6)]
)
def test_expected_scores(logprobs, score):
    assert expected_score(logprobs) == pytest.approx(score, abs=1e-9)


def test_the_ledger_of_self_rewarding(monkeypatch):
    options = SelfRewarding.Options(candidates=3, judge_samples=2)
    table = {name: [scores(1, 1), scores(2, 2), scores(3, 3)] for name in ("p0", "p1", "p2")}
    engine = judged(table)
    examples, bench = collect(SelfRewarding(), options, engine)
    plain, completion_tokens = len(engine.encode_chat(prompts()[0].messages)), len("0X") + 1
    asked = len(engine.encode_chat([{"role": "user", "content": judge_prompt("", "", "short")}]))
    marks = len(engine.encode_chat([{"role": "user", "content": ""}]))
    # the planned prompt has the marks already, and the planned answer a stop token that the judge does not read
    monkeypatch.setitem(baselines.self_rewarding.PROMPT_TOKENS, "short", asked - marks - 1)
    monkeypatch.setitem(baselines.self_rewarding.VERDICT_TOKENS, "short", len("Score: 1") + 1)
    check_ledger(SelfRewarding(), options, examples, bench, Lengths(plain, 0, completion_tokens), 3)


def test_the_ledger_of_weighted_ratings(monkeypatch):
    options = SelfRewarding.Options(candidates=3, judge_prompt="weighted")
    engine = ScriptedEngine(lambda chat, item: f"{item[-1]}X{END}")
    monkeypatch.setattr(
        engine, "logprobs", lambda asked, given, advance=None: [LogProb(-i % 7, 1) for i, _ in enumerate(given)]
    )
    examples, bench = collect(SelfRewarding(), options, engine)
    plain, completion_tokens = len(engine.encode_chat(prompts()[0].messages)), len("0X") + 1
    asked = len(engine.encode_chat([{"role": "user", "content": judge_prompt("", "", "weighted")}]))
    marks = len(engine.encode_chat([{"role": "user", "content": ""}]))
    monkeypatch.setitem(baselines.self_rewarding.PROMPT_TOKENS, "weighted", asked - marks - 1)
    check_ledger(SelfRewarding(), options, examples, bench, Lengths(plain, 0, completion_tokens), 3)


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("Score: 4", 4),
        ("score by score. Score: 2\nScore: 0", 0),
        ("It is fine. Score: 4.", 4),
        ("**Score:** 4", 4),
        ("Score: 5/5", 5),
        ("Score: 4.5", None),
        ("Score: 6", None),
        ("Score: 10", None),
        ("Score: -1", None),
        ("Score:", None),
        ("4", None),
        ("", None),
    ],
)
def test_scores_are_read(text, score):
    assert parse_score(text) == score


def test_mean_of_the_scores_that_are_there():
    assert mean_score([1, None, 4]) == 2.5
    assert mean_score([0, 0]) == 0
    assert mean_score([None, None]) is None


# ---- thoughts


@pytest.mark.parametrize(
    ("method", "kinds"), [(PBAA(), ["good", "bad"]), (SSO(), ["good", "bad", "plain"]), (SFT(), ["good"])]
)
def test_thoughts_are_charged_counted_and_not_trained_on(method, kinds):
    def script(chat, item):
        _, name, kind = item.split("/")
        if name == "p1":
            return f"<think>no end of {kind}{END}"
        return (f"<think>hm</think>\n\n{name} {kind}" if kind == "good" else f"{name} {kind}") + END

    examples, bench = collect(method, method.Options(), ScriptedEngine(script), prompts(2))
    assert [example.id for example in examples] == ["p0"]
    assert examples[0].record["chosen"] == "p0 good"
    replies = {ScriptedEngine.text(each.completion_ids) for each in examples[0].sequences}
    assert replies == {f"p0 {kind}{END}" for kind in kinds}
    assert bench.discarded == {"unfinished": 1}
    assert bench.events["thoughts taken off"] == 1 + len(kinds)
    said = [script("", f"policy/{prompt.id}/{kind}") for prompt in prompts(2) for kind in kinds]
    assert bench.ledger.roles["generate"].generated_tokens == sum(map(len, said))


def test_answers_that_differ_in_their_thoughts_alone_are_equal():
    def script(chat, item):
        return f"<think>{item}</think>the same{END}"

    examples, bench = collect(PBAA(), PBAA.Options(), ScriptedEngine(script), prompts(1))
    assert (examples, bench.discarded) == ([], {"equal responses": 1})


def test_a_policy_that_thinks_judges_and_learns_answers():
    def script(chat, item):
        kind = item.split("/")[-1]
        if kind.startswith("judge"):
            return f"<think>Score: 5</think>Score: {4 if 'answer 1' in chat else 1}{END}"
        return f"<think>{kind}</think>answer {kind[-1]}{END}"

    engine = ScriptedEngine(script)
    (example,), bench = collect(SelfRewarding(), SelfRewarding.Options(candidates=2), engine, prompts(1))
    assert [ScriptedEngine.text(each.completion_ids) for each in example.sequences] == [
        f"answer 1{END}",
        f"answer 0{END}",
    ]
    assert not any("<think>candidate" in chat for chat, item, _ in engine.asked if "judge" in item)
