"""FLOPs of each role by torch's flop counter beside the ledger's: python tests/helpers/role_flops.py MODEL [RANK]

The counter sees every matrix product. Two things that it sees are not charged: pairs of attention that a mask hides,
with the scores that fused attention computes again on the way back; and the logits that the backward pass computes
again.
"""

import random
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch.utils.flop_counter import FlopCounterMode

from harness.budget import Ledger
from harness.engines.base import Sampling
from harness.engines.transformers import TransformersEngine
from harness.perf.flops import CPU_ATTENTION
from harness.training.base import Training
from harness.training.dataset import build_data
from harness.training.examples import Example, TokenSequence, TrainingOptions, lora
from harness.training.losses import PreferenceObjective
from harness.training.reference import reference_logprobs
from harness.training.trainer import charge_updates, train_here, training_arguments
from harness.work import Rates, Work, of_samples

PAIRS, PROMPT, COMPLETION = 4, 24, 40  # examples, and the fewest tokens of a prompt and of a completion


@dataclass(frozen=True)
class Role:
    """What a role was charged, and what torch counted, in FLOPs.

    charged_attention: the share of `charged` for pairs of attention. attention: what fused attention computed.
    again: logits of the backward pass.
    """

    charged: float
    charged_attention: float
    counted: float
    attention: float
    again: float = 0.0

    @property
    def ratio(self) -> float:
        return self.counted / self.charged

    @property
    def explained(self) -> float:
        """The ratio without what is not charged on purpose."""
        return (self.counted - self.attention - self.again) / (self.charged - self.charged_attention)


def roles(engine: TransformersEngine, folder: Path, rank: int = 0) -> dict[str, Role]:
    """What sampling, reading and an update cost, with adapters of this rank or all weights (0)."""
    options = TrainingOptions(batch_size=PAIRS, micro_batch_size=PAIRS, lora_rank=rank)
    objective, adapters = PreferenceObjective(beta=0.5), lora(options)
    examples = _examples(engine)
    data = build_data(examples, folder / "examples.arrow", 2, engine.context_length)
    ledger, needed, learning = Ledger(), engine.needed(), engine.needed(adapters).learning
    assert engine.reading.packs and not engine.refilling.reason and not engine.why_not_shared  # chosen now
    prompts = [pair[0].prompt_ids for pair in (example.sequences for example in examples) for _ in range(2)]
    made = []

    def sample() -> None:
        made.extend(engine.generate(prompts, [str(place) for place in range(len(prompts))], Sampling(COMPLETION, 1.0)))

    found = {"generate": _counted(sample)}
    sampled = of_samples(prompts, [completion.token_ids for completion in made])
    works = {"generate": (needed.reading, sampled, 0.0)}
    ledger.charge("generate", needed.forward(sampled))

    found["reference"] = _counted(lambda: made.append(reference_logprobs(engine, data, ledger)))
    works["reference"] = (needed.reading, data.work, 0.0)
    training = Training(training_arguments(options, folder / "state", 0, on_gpu=False, bf16=False), adapters)
    found["train"] = _counted(lambda: train_here(engine, data, objective, made[-1], training, folder / "model", None))
    charge_updates(ledger, engine, data, objective, training, updates=1)
    works["train"] = (learning, data.work, needed.reading.logits * data.work.logits)
    return {
        role: Role(ledger.roles[role].flops, _attention(rates, work), *found[role], again)
        for role, (rates, work, again) in works.items()
    }


def _examples(engine: TransformersEngine) -> list[Example]:
    """Pairs of completions of random tokens, of different lengths."""
    draw = random.Random(0)

    def ids(fewest: int) -> tuple[int, ...]:
        return tuple(draw.randrange(engine.model.config.vocab_size) for _ in range(fewest + draw.randrange(fewest)))

    examples = []
    for number in range(PAIRS):
        prompt = ids(PROMPT)
        examples.append(Example(str(number), tuple(TokenSequence(prompt, ids(COMPLETION)) for _ in range(2))))
    return examples


def _counted(work: Callable[[], object]) -> tuple[int, int]:
    """All FLOPs that torch counts, and those of fused attention among them."""
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        work()
    operations = counter.get_flop_counts()["Global"]
    return counter.get_total_flops(), sum(flops for name, flops in operations.items() if "attention" in str(name))


def _attention(rates: Rates, work: Work) -> float:
    return sum(rate * work.attended(window) for window, rate in rates.pairs.items())


def main() -> None:
    model, *rank = sys.argv[1:]
    engine = TransformersEngine.load(model, "cpu")
    print("role, charged, counted / charged, without what is not charged; shares of charged: attention, logits again")
    with tempfile.TemporaryDirectory() as folder:
        for name, role in roles(engine, Path(folder), int(*rank or "0")).items():
            shares = (role.attention - role.charged_attention) / role.charged, role.again / role.charged
            print(f"{name:10} {role.charged:9.3g}", *(f"{each:7.3f}" for each in (role.ratio, role.explained, *shares)))


if __name__ == "__main__":
    main()
