"""DPO on the policy's own replies: the shortest that is finished over the longest."""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.methods import Lengths, Prompt, QueryCost, Stage, Workbench
from harness.search import BETA, LEARNING_RATE
from harness.training.examples import Example, TokenSequence, TrainingOptions
from harness.training.losses import PreferenceObjective
from harness.work import sampled, sequences


class Shorter:
    name = "shorter"
    summary = "DPO on the policy's own replies, the shortest over the longest"
    search_space = {"learning_rate": LEARNING_RATE, "beta": BETA}  # what --tune tries

    @dataclass(frozen=True)
    class Options(TrainingOptions):
        """candidates: replies to each prompt. beta: of DPO."""

        candidates: int = 2
        beta: float = 0.1

    def stages(self, options: Options) -> list[Stage]:
        number = options.candidates

        def collect(workbench: Workbench, prompts: Sequence[Prompt]) -> list[Example]:
            chats = [prompt.chat for prompt in prompts for _ in range(number)]
            items = [f"{prompt.id}/candidate-{place}" for prompt in prompts for place in range(number)]
            replies = workbench.sample("generate", chats, items)
            examples = []
            for start, prompt in zip(range(0, len(replies), number), prompts, strict=True):
                finished = [reply for reply in replies[start : start + number] if reply.finished]
                ordered = sorted(finished, key=lambda reply: len(reply.token_ids))
                if len(ordered) < 2 or len(ordered[0].token_ids) == len(ordered[-1].token_ids):
                    workbench.discard("no two finished replies of different lengths")
                    continue
                query, pair = workbench.engine.encode_chat(prompt.chat), (ordered[0], ordered[-1])
                record = {**prompt.record, "chosen": pair[0].text, "rejected": pair[1].text}
                sequences = tuple(TokenSequence(query, reply.token_ids) for reply in pair)
                examples.append(Example(prompt.id, sequences, record))
            return examples

        def expect(lengths: Lengths) -> QueryCost:  # work of a query, and of training on it; share that is kept
            replies = sampled(lengths.prompt, *[lengths.completion] * number)
            return QueryCost(replies, sequences(lengths.prompt, *[lengths.completion] * 2), kept=0.9)

        objective = PreferenceObjective(loss="dpo", beta=options.beta)
        return [Stage("policy", 1.0, collect, expect, objective, options)]

    def supervision(self, options: Options) -> str:
        return "length of the replies"
