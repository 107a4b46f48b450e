"""An engine without a model: token ids are character codes, completions come from a script."""

from collections.abc import Callable
from datetime import date

from harness.budget import Ledger
from harness.engines.base import Completion, LogProb, Sampling
from harness.methods.base import Workbench
from harness.types import Chat
from harness.work import of_sequences

STOP = 3  # token that ends a reply; END OF TEXT in ASCII
MARKS = {"system": "\x01", "user": "\x02", "assistant": "\x04"}


def ids(text: str) -> tuple[int, ...]:
    return tuple(map(ord, text))


class ScriptedEngine:
    """`script` is asked for each reply with the chat's text (a mark before each message) and the noise key.

    A reply without a STOP at its end did not finish.
    """

    name, weights_hash, parameters, context_length = "scripted", "none", 1000, 10_000
    day, chat = date(2026, 1, 1), None

    def __init__(self, script: Callable[[str, str], str] = lambda chat, item: f"reply{chr(STOP)}"):
        self.script = script
        self.asked: list[tuple[str, str, Sampling]] = []

    def encode_chat(self, chat, add_generation_prompt=True):
        text = "".join(MARKS[message["role"]] + message["content"] for message in Chat.of(chat).messages)
        return ids(text + (MARKS["assistant"] if add_generation_prompt else ""))

    def encode_replies(self, chat, replies):
        return self.encode_chat(chat), [(*ids(reply), STOP) for reply in replies]

    def encode_alternatives(self, chat, texts):
        return self.encode_chat(chat), list(map(ids, texts))

    def generate(self, prompts, items, sampling, advance=None):
        replies = []
        for prompt, item in zip(prompts, items, strict=True):
            chat = self.text(prompt)
            self.asked.append((chat, item, sampling))
            reply = self.script(chat, item)
            replies.append(Completion(ids(reply), reply.removesuffix(chr(STOP)), reply.endswith(chr(STOP))))
            if advance:
                advance(1)
        return replies

    def logprobs(self, prompts, completions, advance=None):
        return [LogProb(-float(len(completion)), len(completion)) for completion in completions]

    def positions(self, prompts, completions):
        return round(of_sequences(zip(prompts, completions, strict=True)).positions)

    @staticmethod
    def text(tokens) -> str:
        return "".join(map(chr, tokens))


def bench_of(engine: ScriptedEngine, judge=None, seed: int = 0) -> Workbench:
    """A workbench of the stage "policy" with an empty ledger."""
    return Workbench(engine, Ledger(rule="nominal"), Sampling(64, 0.7, 0.9, seed), "policy", judge)
