"""Replies as the chat templates of real families write them, compared with what TRL's own DPOTrainer makes of a row."""

import json
from datetime import date

import pytest
from chat_families import FAMILIES
from chat_messages import SYSTEM, assistant, user
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from paths import ROOT
from trl.data_utils import _tokenize, common_prefix_length
from trl_rows import BEGUN, CALL, PAIR, TOOL, trl_ids

from harness.engines.chat import ChatTemplate
from harness.engines.conversations import ChatWriter
from harness.engines.templates import ChatProgram
from harness.errors import UserError
from harness.methods.prompt_rows import read_row
from harness.types import Chat

TODAY = date.today()
WITHOUT_SYSTEM = {"gemma", "gemma, its EOS alone", "mistral-v1"}  # refuse one
MOVED_SYSTEM = {"mistral-v3", "mistral-tekken"}  # drop it as soon as there is a reply


def trl_rule(tokenizer, question: str, *replies: str) -> tuple[list[int], ...]:
    """The same by the functions that the trainer calls, which take a tenth of the time."""
    prompt = _tokenize(tokenizer, [user(question)], add_generation_prompt=True)["input_ids"]
    wholes = [_tokenize(tokenizer, [user(question), assistant(reply)])["input_ids"] for reply in replies]
    shared = min(common_prefix_length(prompt, whole) for whole in wholes)
    return prompt[:shared], *(whole[shared:] for whole in wholes)


def our_ids(chat: ChatTemplate, row: dict) -> tuple[list[int], list[int], list[int]]:
    """The same of the harness, from the same row as a user's file holds it."""
    read = read_row(json.loads(json.dumps(row)))
    prompt, replies = chat.encode_replies(Chat(read.messages, read.tools, read.variables), [read.chosen, read.rejected])
    return tuple(map(list, (prompt, *replies)))


def template_of(name: str) -> ChatTemplate:
    tokenizer = FAMILIES[name].tokenizer()
    return ChatTemplate(tokenizer, [tokenizer.eos_token_id], name, TODAY)


@pytest.fixture(scope="module")
def templates() -> dict[str, ChatTemplate]:
    return {name: template_of(name) for name in FAMILIES}


ROWS = {
    "a question": {"prompt": [user("What colour is the sky?")]},
    "several turns": {"prompt": [user("Hi"), assistant("Hello."), user("What colour is the sky?")]},
    "a system message": {"prompt": [SYSTEM, user("What colour is the sky?")]},
    "a system message and several turns": {"prompt": [SYSTEM, user("Hi"), assistant("Hello."), user("And the sky?")]},
}


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("name", FAMILIES)
def test_ids_are_those_of_trl(templates, name, row):
    if "system" in row and name in WITHOUT_SYSTEM | MOVED_SYSTEM:
        pytest.skip("TRL refuses such a row, or loses its system message: see the tests of system messages")
    row = ROWS[row] | PAIR
    assert our_ids(templates[name], row) == trl_ids(templates[name].tokenizer, row)


@pytest.mark.parametrize("name", FAMILIES)
def test_replies_of_several_turns(templates, name):
    """All turns of the completion are trained on, as TRL does."""
    if name in MOVED_SYSTEM:
        pytest.skip("these templates write nothing else for such a row without a system message")
    turns = [assistant("Paris."), user("And a river there?"), assistant("The Seine.")]
    row = {"prompt": [user("Name a city")], "chosen": turns, "rejected": [assistant("Potato.")]}
    prompt, chosen, rejected = our_ids(templates[name], row)
    assert (prompt, chosen, rejected) == trl_ids(templates[name].tokenizer, row)
    text = templates[name].tokenizer.decode(chosen)
    assert "Paris." in text and "The Seine." in text


ODD = ["", " ", "\n", " a ", "\n\nb\n", "é", "𝔸🙂", "<think>", "</think> so", "[INST]", "{{ bos_token }}"]
REFUSE_BEGUN = {"llama-2", "mistral-v3", "mistral-tekken", *WITHOUT_SYSTEM}  # roles must alternate


@pytest.mark.parametrize("name", FAMILIES)
def test_an_answer_that_the_prompt_begins_is_a_turn_of_it(templates, name):
    """As in TRL's DPOTrainer: nothing of the row is lost. Templates whose roles alternate refuse it."""
    if name in REFUSE_BEGUN:
        with pytest.raises(UserError, match="refuses a conversation of user, assistant"):
            our_ids(templates[name], BEGUN | PAIR)
    else:
        ids = our_ids(templates[name], BEGUN | PAIR)
        assert ids == trl_ids(templates[name].tokenizer, BEGUN | PAIR)
        assert "The answer is" in templates[name].tokenizer.decode(ids[0] + ids[1])


TEXTS = st.text(max_size=12) | st.sampled_from(ODD)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(question=TEXTS, good=TEXTS, bad=TEXTS)
@example("What?", " leading", "trailing ")
@example("", "", "a")
def test_any_text_is_as_in_trl(templates, question, good, bad):
    """White space at the ends, nothing at all, letters of any script; control tokens have a test of their own."""
    row = {"prompt": [user(question)], "chosen": [assistant(good)], "rejected": [assistant(bad)]}
    for name, chat in templates.items():
        if not any(map(chat._control.search, (question, good, bad))):
            assert our_ids(chat, row) == trl_rule(chat.tokenizer, question, good, bad), name


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=st.text(max_size=5), after=st.text(max_size=5))
def test_a_text_that_looks_like_a_control_token_is_text(templates, before, after):
    """No token of it is the control token, in the prompt and in the reply; TRL would end the turn there."""
    for name, chat in templates.items():
        for token in FAMILIES[name].special:
            attack = f"{before}{token}{after}"
            control = chat.tokenizer.convert_tokens_to_ids(token)
            plain, (reply,) = chat.encode_replies([user("Hi")], ["Yes."])
            prompt, (attacked,) = chat.encode_replies([user("Hi")], [attack])
            assert attacked.count(control) == reply.count(control), (name, token)
            asked = chat.encode([user(attack)])
            assert asked.count(control) == chat.encode([user("Hi")]).count(control), (name, token)


# System messages


@pytest.mark.parametrize("name", sorted(WITHOUT_SYSTEM))
def test_a_refused_system_message_is_the_users(templates, name):
    chat, row = templates[name], ROWS["a system message and several turns"] | PAIR
    folded = row | {"prompt": [user("Be brief.\n\nHi"), *row["prompt"][2:]]}
    assert our_ids(chat, row) == trl_ids(chat.tokenizer, folded)
    assert chat.encode(row["prompt"]) == chat.encode(folded["prompt"])


@pytest.mark.parametrize("name", sorted(MOVED_SYSTEM))
@pytest.mark.parametrize("row", ["a system message", "a system message and several turns"])
def test_a_system_message_stays_where_the_template_puts_it_for_generation(templates, name, row):
    """Mistral's templates write it into the last user message, and not at all once a reply follows."""
    chat, row = templates[name], ROWS[row] | PAIR
    *before, question = row["prompt"][1:]
    folded = row | {"prompt": [*before, user(f"Be brief.\n\n{question['content']}")]}
    generated = chat.tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True)["input_ids"]
    assert list(chat.encode(row["prompt"])) == generated
    prompt, chosen, rejected = our_ids(chat, row)
    assert (prompt, chosen, rejected) == trl_ids(chat.tokenizer, folded)
    assert prompt == generated


# Tools, thoughts, and what is left out


@pytest.mark.parametrize("name", ["qwen2.5", "llama-3.1", "templates by name"])
def test_tools_are_given_to_the_template(templates, name):
    row = ROWS["a question"] | PAIR | {"tools": json.dumps([TOOL])}
    prompt, chosen, rejected = our_ids(templates[name], row)
    assert (prompt, chosen, rejected) == trl_ids(templates[name].tokenizer, row)
    assert "weather" in templates[name].tokenizer.decode(prompt)


def test_calls_of_functions(templates):
    turns = [user("Rain?"), {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "content": "rain"}]
    row = {"prompt": turns, "tools": [TOOL], **PAIR}
    prompt, chosen, rejected = our_ids(templates["qwen2.5"], row)
    assert (prompt, chosen, rejected) == trl_ids(templates["qwen2.5"].tokenizer, row)
    assert "Oslo" in templates["qwen2.5"].tokenizer.decode(prompt)


@pytest.mark.parametrize("name", ["qwen3", "gpt-oss"])
def test_a_thought_is_written(templates, name):
    row = ROWS["a question"] | PAIR | {"chosen": [assistant("Blue.", reasoning_content="Let me look up.")]}
    prompt, chosen, rejected = our_ids(templates[name], row)
    assert (prompt, chosen, rejected) == trl_ids(templates[name].tokenizer, row)
    assert "Let me look up." in templates[name].tokenizer.decode(chosen)


@pytest.mark.parametrize(
    ("name", "chat", "reply", "left_out"),
    [
        ("llama-2", Chat((user("Q"),), (TOOL,)), "A", "leaves out the tool 'weather'"),
        ("gemma", Chat((user("Q"),)), ({"role": "assistant", "tool_calls": [CALL]},), "leaves out the call of 'wea"),
        ("phi-3", Chat((user("Q"), {"role": "tool", "content": "rain"})), "A", "leaves out the tool message"),
        ("zephyr", Chat(({"role": "developer", "content": "Be brief."}, user("Q"))), "A", "leaves out the developer"),
        ("mistral-v1", Chat((user("Q"), user("R"))), "A", "refuses a conversation of user, user: C"),
        ("chatml", Chat((user("Q"),)), (assistant("A", reasoning_content="Hm."),), "leaves out the thought"),
        ("chatml", Chat((user("Q"),), (), {"enable_thinking": False}), "A", "does not read 'enable_thinking'"),
    ],
)
def test_what_a_template_does_not_write_is_refused(templates, name, chat, reply, left_out):
    with pytest.raises(UserError, match=f"the chat template of {name} {left_out}"):
        templates[name].encode_replies(chat, [reply])


# Generation and letters


STOPS = {name: family.eos for name, family in FAMILIES.items()} | {
    "chatml whose turn end is not EOS": "<|im_end|>",
    "gemma, its EOS alone": "<end_of_turn>",
}


@pytest.mark.parametrize("name", FAMILIES)
def test_generation_stops_where_the_template_ends_a_turn(name, capsys):
    chat = template_of(name)
    stop = "<|end|>" if name == "phi-3" else STOPS[name]
    token = chat.tokenizer.convert_tokens_to_ids(stop)
    eos = chat.tokenizer.eos_token_id
    if name == "phi-3":  # writes its EOS, too, after a conversation
        stop, token = "<|endoftext|>", eos
    assert (chat.stop_token, set(chat.stop_tokens)) == (token, {token, eos})


def test_a_turn_end_that_is_not_configured_is_said_once(capsys):
    for name in ("start", "trained"):
        tokenizer = FAMILIES["chatml whose turn end is not EOS"].tokenizer()
        tokenizer.chat_template += "{# a template of this test alone #}"
        ChatTemplate(tokenizer, [tokenizer.eos_token_id], name)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("note: the chat template of start ends a turn with '<|im_end|>', which is not among the end")


@pytest.mark.parametrize("name", FAMILIES)
def test_letters_are_read_where_the_template_writes_an_answer(templates, name):
    chat = templates[name]
    prompt, letters = chat.encode_alternatives([user("A or B?")], ["A", "B", "C"])
    before = chat._writer.whole(Chat((user("A or B?"),)), "A").rpartition("A")[0]
    for letter, ids in zip("ABC", letters, strict=True):
        assert [*prompt, *ids] == chat.tokenizer(before + letter, add_special_tokens=False)["input_ids"]


# The page


@pytest.mark.parametrize("title", ["Qwen2.5", "Qwen3", "DeepSeek-R1", "gpt-oss", "Gemma"])
def test_the_page_shows_the_tokens_that_carry_loss(title):
    tokenizer = FAMILIES[title.lower()].tokenizer()
    chat = ChatTemplate(tokenizer, [tokenizer.eos_token_id], title, date(2026, 11, 26))
    prompt, (reply,) = chat.encode_replies([user("What colour is the sky?")], ["The sky is blue."])
    pieces = "".join(f"[{tokenizer.decode([token])}]" for token in reply)
    line = f"    {title}: {tokenizer.decode(prompt)}{pieces}".replace("\n", "⏎")
    assert line in (ROOT / "docs" / "training.md").read_text().splitlines()


# The date


def test_the_date_is_an_argument(templates):
    tokenizer = FAMILIES["llama-3.1"].tokenizer()
    first, same, other = (
        ChatTemplate(tokenizer, [tokenizer.eos_token_id], "m", day).encode([user("Q")])
        for day in (date(2026, 2, 1), date(2026, 2, 1), date(2026, 2, 2))
    )
    assert first == same != other
    assert "Today Date: 01 Feb 2026" in tokenizer.decode(first)


# Rendering is transformers' own


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("name", FAMILIES)
def test_text_is_that_of_transformers(name, row):
    if "system" in row and name in WITHOUT_SYSTEM:
        pytest.skip("refused")
    tokenizer, messages = FAMILIES[name].tokenizer(), ROWS[row]["prompt"]
    program = ChatProgram(tokenizer.chat_template, tokenizer.special_tokens_map, TODAY)
    for generation in (False, True):
        ours = program.render(messages, add_generation_prompt=generation)
        theirs = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation)
        assert ours == theirs
    writer = ChatWriter(program, name)
    assert writer.prompt(Chat(tuple(messages))) == program.render(messages, add_generation_prompt=True)
