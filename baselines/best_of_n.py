"""Best of N: supervised fine-tuning on the reply of the policy that a judge or a reward model rates highest.

RAFT (Dong et al. 2023, arXiv 2304.06767) in one round.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from baselines.ratings import RatedOptions, rate, rated_candidates, rated_cost, sample_candidates
from harness.experiment.search import LEARNING_RATE, Space
from harness.methods.base import Lengths, QueryCost, Stage, Workbench
from harness.training.examples import Example, TokenSequence
from harness.training.losses import SFTObjective
from harness.types import Prompt
from harness.work import sequences

KEPT = 0.99  # share of queries of which a candidate is finished and rated


class BestOfN:
    """Cross entropy on the best of the policy's own replies."""

    name = "best-of-n"
    summary = "cross entropy on the best of N replies of the policy, by the judge or a reward model"
    search_space: Space = {"learning_rate": LEARNING_RATE}

    @dataclass(frozen=True)
    class Options(RatedOptions):
        pass

    def stages(self, options: Options) -> list[Stage]:
        def collect(workbench: Workbench, prompts: Sequence[Prompt]) -> list[Example]:
            candidates = sample_candidates(workbench, prompts, options.candidates)
            ratings = rate(workbench, prompts, candidates, options)
            examples = []
            for prompt, row, rated in zip(prompts, candidates, ratings, strict=True):
                if not (known := rated_candidates(row, rated)):
                    workbench.discard("no rated candidate")
                    continue
                rating, best = max(known, key=lambda each: each[0])
                query, (reply,) = workbench.encode_answers(prompt.chat, (best,))
                record = {**prompt.record, "chosen": best.text, "chosen_rating": rating, "ratings": rated}
                examples.append(Example(prompt.id, (TokenSequence(query, reply),), record))
            return examples

        def expect(lengths: Lengths) -> QueryCost:
            return rated_cost(lengths, options, sequences(lengths.prompt, lengths.completion), KEPT)

        judged = not options.reward_model
        return [Stage("policy", 1.0, collect, expect, SFTObjective(), options, judged=judged)]

    def supervision(self, options: Options) -> str:
        return options.supervision
