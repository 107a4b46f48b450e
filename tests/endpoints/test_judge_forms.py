"""What refusals of different servers ask for, word by word, and the bodies that come of it."""

import pytest

from harness.endpoints.forms import Forms, about_content, adaptation, applied, at_least
from harness.endpoints.wire import read_refusal
from harness.errors import UserError

BODY = {
    "model": "m",
    "messages": [{"role": "system", "content": "Be just."}, {"role": "user", "content": "Which?"}],
    "temperature": 0.0,
    "max_tokens": 100,
    "logprobs": True,
    "top_logprobs": 5,
}


@pytest.mark.parametrize(
    ("status", "body", "name"),
    [
        (400, '{"error": {"message": "Use max_completion_tokens", "param": "max_tokens"}}', "max_completion_tokens"),
        (400, '{"object": "error", "message": "max_tokens is not permitted", "code": 400}', "max_completion_tokens"),
        (400, '{"error": {"message": "`temperature` is deprecated for this model."}}', "no temperature"),
        (400, '{"error": {"message": "#: extraneous key [temperature] is not permitted"}}', "no temperature"),
        (403, '{"error": {"message": "You are not allowed to request logprobs"}}', "no log-probabilities"),
        (500, '{"error": {"message": "logprobs needs logits_all"}}', "no log-probabilities"),
        (400, '{"error": {"message": "Developer instruction is not enabled for models/gemma"}}', "no system role"),
        (400, '{"message": "Only user and assistant roles are supported!"}', "no system role"),
        (422, '{"error": "Template error: System role not supported", "error_type": "x"}', "no system role"),
        (400, '{"error": {"message": "max_tokens must be at least 200"}}', "at least 200 tokens"),
        (400, '{"error": {"message": "max_tokens: must be less than or equal to 64"}}', "at most 64 tokens"),
        (400, '{"error": {"message": "max_tokens (100) cannot be greater than 50"}}', "at most 50 tokens"),
        (500, '{"error": {"message": "CUDA error: temperature of the device"}}', None),
        (401, '{"error": {"message": "max_tokens"}}', None),
        (429, '{"error": {"message": "too many max_tokens a minute"}}', None),
        (400, '{"error": {"message": "This model\'s maximum context length is 64 tokens, max_tokens 100"}}', None),
        (400, '{"error": {"message": "unknown model"}}', None),
        (400, "<html>bad</html>", None),
        (400, "[" * 100_000, None),
    ],
)
def test_a_refusal_names_its_cure(status, body, name):
    refusal = read_refusal(status, body)
    assert adaptation((), BODY, refusal) == name
    if name:
        changed = applied((name,), BODY)
        assert changed != BODY and adaptation((name,), changed, refusal) != name


def test_what_is_about_one_text_is_not_about_the_form():
    for said in ("The response was filtered due to content management policy", "maximum context length is 64 tokens"):
        assert about_content(read_refusal(400, said))
    assert not about_content(read_refusal(400, "System role not supported"))


def test_bodies_in_a_form():
    form = ("max_completion_tokens", "no temperature", "no system role", "no log-probabilities", at_least(500))
    assert applied(form, BODY) == {
        "model": "m",
        "messages": [{"role": "user", "content": "Be just.\n\nWhich?"}],
        "max_completion_tokens": 500,
    }


def test_forms_are_shared_by_processes(tmp_path):
    one, other = (Forms(tmp_path / "log", "http://here/v1", "m") for _ in range(2))
    assert one.read() == ()
    one.add("no temperature")
    assert other.add("max_completion_tokens") == ("no temperature", "max_completion_tokens") == one.read()
    assert Forms(tmp_path / "log", "http://there/v1", "m").read() == ()


def test_a_form_of_another_version_is_the_users_error():
    with pytest.raises(UserError, match="delete forms.json"):
        applied(("upside down",), BODY)
