"""A model behind an OpenAI-compatible endpoint on loopback."""

from contextlib import contextmanager

from loopback_json import json_server


@contextmanager
def served(answer):
    """The URL of an endpoint; answer(asked) is (status, text, finish_reason)."""

    def complete(_path, asked):
        status, text, reason = answer(asked)
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": reason}
        reply = {"id": "1", "object": "chat.completion", "created": 0, "model": asked["model"], "choices": [choice]}
        return status, reply if status == 200 else {"error": {"message": text}}

    with json_server(complete) as url:
        yield f"{url}/v1"
