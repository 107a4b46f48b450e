"""Principles: how they are drawn, read from a writer's reply, put before a query, and loaded."""

import json
import re

import pytest

from harness.errors import UserError
from harness.testbed import principles as testbed
from harness.types import Chat, Prompt
from sso.principles import (
    CONCISION,
    GENERAL,
    LONGEST,
    Principle,
    PrincipleSet,
    draw_principle,
    load_set,
    parse_written,
    with_principle,
)

SMALL = PrincipleSet(
    {"A": ("a1", "a2"), "B": ("b1",), "C": ("c1",)},
    {"A": ("-a1", "-a2"), "B": ("-b1",), "C": ("-c1",)},
    " Hide it.",
)


def prompt(identifier: str) -> Prompt:
    return Prompt(identifier, ({"role": "user", "content": "Q"},))


def test_a_draw_is_decided_by_prompt_and_seed():
    drawn = [draw_principle(prompt(f"p{number}"), SMALL, 2, 7) for number in range(40)]
    assert drawn == [draw_principle(prompt(f"p{number}"), SMALL, 2, 7) for number in range(40)]
    assert draw_principle(Prompt("p0", ({"role": "user", "content": "other"},)), SMALL, 2, 7) == drawn[0]
    other = [draw_principle(prompt(f"p{number}"), SMALL, 2, 8) for number in range(40)]
    assert drawn != other and drawn != drawn[:1] * 40


@pytest.mark.parametrize(("asked", "given"), [(1, 1), (2, 2), (3, 3), (9, 3)])
def test_good_and_bad_texts_are_of_the_same_features(asked, given):
    for number in range(50):
        found = draw_principle(prompt(f"p{number}"), SMALL, asked, 0)
        assert len(found.features) == len(set(found.features)) == given
        for side, texts in ((found.good, SMALL.good), (found.bad, SMALL.bad)):
            words = side.split(" ")
            assert len(words) == given
            assert all(word in texts[feature] for word, feature in zip(words, found.features, strict=True))


def test_every_text_of_a_feature_is_drawn():
    found = {draw_principle(prompt(f"p{number}"), SMALL, 3, 0).good for number in range(60)}
    assert any("a1" in text for text in found) and any("a2" in text for text in found)


@pytest.mark.parametrize("name", ["general", "testbed"])
def test_concision_is_added_to_a_fifth_of_the_queries(name):
    principles = load_set(name)
    drawn = [draw_principle(prompt(f"p{number}"), principles, 2, 1) for number in range(4000)]
    with_concision = [each for each in drawn if CONCISION in each.features]
    # 4000 draws at 0.2: standard deviation 0.0063, so 4 of them on either side
    assert len(with_concision) / 4000 == pytest.approx(0.2, abs=0.026)
    assert all(each.features[2:] == (CONCISION,) for each in with_concision)
    assert all(len(each.features) == 2 for each in drawn if CONCISION not in each.features)
    assert {feature for each in drawn for feature in each.features} == set(principles.good)


def test_without_concision_nothing_is_added():
    assert all(len(draw_principle(prompt(f"p{number}"), SMALL, 2, 0).features) == 2 for number in range(100))


def test_concision_alone_is_drawn_when_there_is_nothing_else():
    alone = PrincipleSet({CONCISION: ("brief",)}, {CONCISION: ("long",)}, "")
    assert draw_principle(prompt("p"), alone, 2, 0) == Principle((CONCISION,), "brief", "long")


# ---- written


@pytest.mark.parametrize(
    "text",
    [
        "Good: Be kind.\nBad: Be rude.",
        "Sure, here they are.\n\nGood: Be kind.\n\nBad: Be rude.\n\nI hope that this helps!",
        "**Good:** Be kind.\n**Bad:** Be rude.",
        "**Good**: Be kind.\n**Bad**: Be rude.",
        "- Good : Be kind. \n- Bad : Be rude. ",
        "> Good: Be kind.\n> Bad: Be rude.",
        "Good: Be kind.\r\nBad: Be rude.\r\n",
        "Good: Be kind.\nBad: Be rude.\nBad: Be late.",
        "Good: Be kind.\nGood: Be late.\nIt is the opposite of\nBad: Be rude.",
        "Bad: Be late.\nGood: Be kind.\nBad: Be rude.",
        "**Good: Be kind.**\n**Bad: Be rude.**",
        "1. Good: `Be kind.`\n2. Bad: `Be rude.`",
        'Good: "Be kind."\nBad: \u201cBe rude.\u201d',
        "Good:\tBe kind.\u2028Bad:\tBe rude.",
    ],
)
def test_written_principles_are_read(text):
    assert parse_written(text) == Principle(("written",), "Be kind.", "Be rude.")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Good: Be kind.",
        "Bad: Be rude.",
        "Bad: Be rude.\nGood: Be kind.",
        "Good:\nBad: Be rude.",
        "Good: Be kind.\nBad:",
        "Goodness: Be kind.\nBad: Be rude.",
        "A Good: Be kind. Bad: Be rude.",
        "Good: ...\nBad: ...",
        "Good: Be\0 kind.\nBad: Be rude.",
        "Good: Be kind.\nBad: Be \x1b[2J rude.",
        "<b>Good</b>: Be kind.\n<b>Bad</b>: Be rude.",
        '{"Good": "Be kind.", "Bad": "Be rude."}',
    ],
)
def test_replies_without_both_principles(text):
    assert parse_written(text) is None


def test_text_within_a_principle_stays_as_it_is():
    found = parse_written('Good: "Yes" is not "no".  Use **bold**, caf\u00e9s and \U0001f600!\nBad: Say "no"')
    assert (found.good, found.bad) == ('"Yes" is not "no".  Use **bold**, caf\u00e9s and \U0001f600!', 'Say "no"')


@pytest.mark.parametrize("side", ["Good", "Bad"])
def test_a_principle_is_no_essay(side):
    reply = "Good: Be kind.\nBad: Be rude."
    before = {"Good": "Be kind.", "Bad": "Be rude."}[side]
    assert parse_written(reply.replace(before, "x" * LONGEST))
    assert parse_written(reply.replace(before, "x" * (LONGEST + 1))) is None


# ---- the system message


def test_the_principle_becomes_the_system_message():
    messages = ({"role": "user", "content": "Q"},)
    tools = ({"name": "weather"},)
    steered = with_principle(Chat(messages, tools), "Be kind.", " Hide it.")
    assert steered == Chat(({"role": "system", "content": "Be kind. Hide it."}, *messages), tools)


@pytest.mark.parametrize("role", ["system", "developer"])
def test_the_principle_follows_instructions_that_are_there(role):
    messages = ({"role": role, "content": "You are a poet."}, {"role": "user", "content": "Q"})
    assert with_principle(Chat(messages), "Be kind.", " Hide it.").messages == (
        {"role": role, "content": "You are a poet.\n\nBe kind. Hide it."},
        {"role": "user", "content": "Q"},
    )
    assert messages[0]["content"] == "You are a poet."


# ---- sets


def test_general_set_has_the_features_of_the_paper():
    features = "Safety Logicality Comprehensiveness Helpfulness Literariness Accuracy Engagement Concision".split()
    assert list(GENERAL) == features
    assert set(load_set("general").good) == set(load_set("general").bad) == set(features)


def test_testbed_set_is_what_the_model_was_trained_on():
    found = load_set("testbed")
    assert found.do_not_reveal == testbed.DO_NOT_REVEAL
    assert {feature: (found.good[feature], found.bad[feature]) for feature in found.good} == {
        feature: tuple(principle) for feature, principle in testbed.PRINCIPLES.items()
    }


@pytest.mark.parametrize("name", ["general", "testbed"])
def test_good_and_bad_texts_differ(name):
    found = load_set(name)
    for feature in found.good:
        assert not set(found.good[feature]) & set(found.bad[feature])


def test_set_of_a_file(tmp_path):
    path = tmp_path / "set.json"
    path.write_text(json.dumps({"Warmth": {"good": ["Be warm."], "bad": ["Be cold.", "Be stern."]}}))
    found = load_set(str(path))
    assert (found.good, found.bad) == ({"Warmth": ("Be warm.",)}, {"Warmth": ("Be cold.", "Be stern.")})
    assert found.do_not_reveal.startswith(" ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"set\.json:1: not JSON"),
        ("[]", r"set\.json: must be \{FEATURE"),
        ("{}", r"set\.json: must be \{FEATURE"),
        ('{"Warmth": "Be warm."}', r"set\.json: must be \{FEATURE"),
        ('{"Warmth": {"good": ["Be warm."]}}', "'bad' of 'Warmth' must be a list of texts"),
        ('{"Warmth": {"good": [], "bad": ["x"]}}', "'good' of 'Warmth' must be a list of texts, at least one"),
        ('{"Warmth": {"good": "Be warm.", "bad": ["x"]}}', "'good' of 'Warmth' must be a list of texts"),
        ('{"Warmth": {"good": ["x"], "bad": [5]}}', "'bad' of 'Warmth' must be a list of texts"),
        ('{"Warmth": {"good": ["x"], "bad": [" "]}}', "'bad' of 'Warmth' must be a list of texts"),
    ],
)
def test_malformed_sets(text, message, tmp_path):
    path = tmp_path / "set.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        load_set(str(path))


def test_set_that_is_not_utf8(tmp_path):
    path = tmp_path / "set.json"
    path.write_bytes(b'{"W\xe4rme": {}}')
    with pytest.raises(UserError, match=r"set\.json:1: cannot be read"):
        load_set(str(path))


def test_unknown_set():
    with pytest.raises(UserError, match=re.escape("no principle set 'nice': give 'general', 'testbed' or a JSON file")):
        load_set("nice")
