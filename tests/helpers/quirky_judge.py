"""Judges' servers with the quirks that public bug reports tell of: what each mode answers to a request's body."""

import math

GOOD = "Rating: [[7]]"


def ok(content, logprobs=None, finish="stop", **message):
    choice = {
        "index": 0,
        "finish_reason": finish,
        "message": {"role": "assistant", "content": content, **message},
        "logprobs": logprobs,
    }
    usage = {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10}
    return 200, {"object": "chat.completion", "model": "quirk", "choices": [choice], "usage": usage}


def top(**probabilities):
    """Log-probabilities of the first token; _ in a name stands for a space."""
    pairs = [{"token": name.replace("_", " "), "logprob": math.log(each)} for name, each in probabilities.items()]
    return {"content": [{**pairs[0], "top_logprobs": pairs}]}


def refused(message, status=400, **fields):
    return status, {"error": {"message": message, "type": "invalid_request_error", **fields}}


def plain(asked):
    """The judge that all modes are but for their quirk: 7, and M with a probability of 0.9."""
    return ok("M", top(M=0.9, m=0.1)) if pairwise(asked) else ok(GOOD)


def pairwise(asked):
    return "Model Identifier" in asked["messages"][-1]["content"]


def has_system(asked):
    return any(message["role"] == "system" for message in asked["messages"])


def unless(refuses, *refusal, **fields):
    """A mode that refuses some requests."""
    return lambda asked: refused(*refusal, **fields) if refuses(asked) else plain(asked)


def length(asked):
    return asked.get("max_tokens") or asked.get("max_completion_tokens")


def in_openai_reasoning(asked):
    """Like o1: one refusal after the other."""
    if "max_tokens" in asked:
        return refused("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.", param="max_tokens")
    if asked.get("temperature", 1) != 1:
        return refused("Unsupported value: 'temperature' does not support 0.0 with this model.", param="temperature")
    if has_system(asked):
        return refused(
            "Unsupported value: 'messages[0].role' does not support 'system' with this model.",
            param="messages[0].role",
        )
    if "logprobs" in asked:
        return refused("You are not allowed to request logprobs from this model.", 403)
    if length(asked) < 2048:
        return ok("", finish="length")  # all of it went into thoughts
    return ok("M" if pairwise(asked) else GOOD)


def ranks_by_text(asked):
    """No log-probabilities; the letter is a token that more follow, unless there is room for the end."""
    if not pairwise(asked):
        return ok(GOOD)
    return ok("m") if length(asked) >= 16 else ok("m", finish="length")


def pydantic(field):
    return {"detail": [{"loc": ["body", field], "msg": "Extra inputs are not permitted", "type": "extra_forbidden"}]}


PARTS = [
    {"type": "thinking", "thinking": [{"type": "text", "text": "Let me see. [[3]]?"}]},
    {"type": "text", "text": "Good. Rating: [[7]]"},
]
LEGACY = {"tokens": ["M"], "token_logprobs": [-0.1], "top_logprobs": [{"M": math.log(0.9), "m": math.log(0.1)}]}
ALONE = {"content": [{"token": "M", "logprob": -0.1, "top_logprobs": []}]}
RAW = '{"error": {"message": "temperature is not supported by this provider"}}'
SYSTEM = ("System role not supported",)
MODES = {
    "plain": plain,
    # Refusals of the request's form, in the words of different servers.
    "o1_max_tokens": unless(
        lambda asked: "max_tokens" in asked,
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
        param="max_tokens",
        code="unsupported_parameter",
    ),
    "pydantic_max_tokens": lambda asked: (422, pydantic("max_tokens")) if "max_tokens" in asked else plain(asked),
    "gpt5_temperature": unless(
        lambda asked: asked.get("temperature", 1) != 1,
        "Unsupported value: 'temperature' does not support 0.0 with this model. Only the default (1) is supported.",
        param="temperature",
        code="unsupported_value",
    ),
    "litellm_temperature": unless(
        lambda asked: asked.get("temperature", 1) != 1,
        "litellm.UnsupportedParamsError: gpt-5 models don't support temperature=0.0. Only temperature=1 is supported.",
        param=None,
        code="400",
    ),
    "openrouter_temperature": lambda asked: (
        (400, {"error": {"message": "Provider returned error", "code": 400, "metadata": {"raw": RAW}}})
        if "temperature" in asked
        else plain(asked)
    ),
    "tgi_temperature": lambda asked: (
        (422, {"error": "Input validation error: `temperature` must be strictly positive", "error_type": "validation"})
        if asked.get("temperature") == 0
        else plain(asked)
    ),
    "gemini_temperature": lambda asked: (
        (400, [{"error": {"code": 400, "message": "temperature must be above 0", "status": "INVALID_ARGUMENT"}}])
        if asked.get("temperature") == 0
        else plain(asked)
    ),
    "system_unsupported": unless(has_system, *SYSTEM, code=400),
    "system_unsupported_500": unless(has_system, *SYSTEM, 500),
    "roles_alternate": unless(
        has_system, "Conversation roles must alternate user/assistant/user/assistant/...", code=400
    ),
    "min16": unless(
        lambda asked: length(asked) < 16,
        "Invalid 'max_output_tokens': integer below minimum value. Expected a value >= 16, but got 1 instead.",
        param="max_output_tokens",
        code="integer_below_min_value",
    ),
    "most1024": unless(
        lambda asked: length(asked) > 1024,
        "max_tokens is too large: 2048. This model supports at most 1024 completion tokens.",
        param="max_tokens",
    ),
    "o1": in_openai_reasoning,
    "error_in_200": lambda asked: (
        (200, {"error": {"message": "'max_tokens' is not supported", "code": 400}})
        if "max_tokens" in asked
        else plain(asked)
    ),
    # Refusals that nothing cures.
    "wrong_model": lambda asked: refused("The model 'quirk' does not exist", 404, code="model_not_found"),
    "no_key": lambda asked: refused("You didn't provide an API key.", 401),
    "retired": lambda asked: refused("The model 'quirk' has been deprecated", 400, code="model_deprecated"),
    "ok200error": lambda asked: (
        200,
        {"error": {"message": "Rate limit exceeded: free-models-per-day", "code": 429}},
    ),
    "filter": lambda asked: refused("The response was filtered", code="content_filter"),
    # Replies of judges that think, and of those that were cut.
    "reasoning_none": lambda asked: ok(None, finish="length", reasoning_content="hmm hmm"),
    "list_content": lambda asked: ok("M", top(M=0.9, m=0.1)) if pairwise(asked) else ok(PARTS),
    "think_first": lambda asked: (
        ok("<think>", top(**{"<think>": 0.999, "M": 0.0002, "m": 0.0001}))
        if pairwise(asked)
        else ok("<think>\nA first guess is [[3]].\n</think>\n\nRating: [[7]]")
    ),
    "thinks_then_letter": lambda asked: (
        ok("<think>", finish="length")
        if length(asked) < 100
        else ok("<think>M has more facts.</think>\n\nM" if pairwise(asked) else f"<think>[[2]]</think>{GOOD}")
    ),
    "truncated_rating": lambda asked: ok("More than [[3]] but not [[9]], and so", finish="length"),
    "refusal": lambda asked: ok(None, refusal="I can't help with that."),
    # Log-probabilities, or none.
    "no_logprobs": lambda asked: ok("M" if pairwise(asked) else GOOD),
    "no_top": lambda asked: ok("M", ALONE) if pairwise(asked) else ok(GOOD),
    "legacy_logprobs": lambda asked: ok("M", LEGACY) if pairwise(asked) else ok(GOOD),
    "logprobs_refused": lambda asked: (
        refused("logprobs is not supported", code=400) if "logprobs" in asked else ok("M" if pairwise(asked) else GOOD)
    ),
    "ranks_by_text": ranks_by_text,
    "space_token": lambda asked: ok(" M", top(_M=0.9, _m=0.1)) if pairwise(asked) else ok(GOOD),
    "both_missing": lambda asked: ok("Both", top(Both=0.98, The=0.01), "length") if pairwise(asked) else ok(GOOD),
    "chatty": lambda asked: ok("The model m is better than M.") if pairwise(asked) else ok(GOOD),
    # Verdicts.
    "zero": lambda asked: ok("Off topic; [[5]] would be far too kind. Rating: [[0]]"),
    "fraction": lambda asked: ok("Rating: [[7/10]]"),
    "single": lambda asked: ok("Rating: [7]"),
    "full_stop": lambda asked: ok("M", top(M=0.9, m=0.1)) if pairwise(asked) else ok("**Rating: [[7.]]**"),
}
