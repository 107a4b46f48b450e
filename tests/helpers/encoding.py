"""Token ids of given replies, for tests that do not care what they reply to."""

CHAT = ({"role": "user", "content": "Hi"},)


def reply_ids(engine, text: str, chat=CHAT) -> tuple[int, ...]:
    _, (ids,) = engine.encode_replies(chat, [text])
    return ids
