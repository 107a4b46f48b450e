"""What a measurement of training runs on: the model's shape, the lengths of its data, and the data themselves."""

import math
import random
from dataclasses import dataclass

from harness.errors import UserError, unknown_name
from harness.types import TokenIds

PAD, EOS, UNKNOWN = range(3)
FIRST_WORD = 3  # the first ordinary token id
LEAST_VOCABULARY = 16
SEQUENCES = {"sso": 6, "dpo": 2}  # sequences per query that an objective reads; DPO's are y+ over y- on x

PairLengths = tuple[TokenIds, TokenIds]  # prompt, completion


@dataclass(frozen=True)
class LogNormal:
    """Lengths in tokens: log-normal around the median, clipped to `low` and `high`."""

    median: int
    sigma: float
    low: int
    high: int

    def draw(self, rng: random.Random) -> int:
        return max(self.low, min(self.high, int(rng.lognormvariate(math.log(self.median), self.sigma))))


@dataclass(frozen=True)
class LengthMix:
    """Lengths of queries, principles, and the responses y+, y- and yo, without their end token."""

    query: LogNormal
    principle: LogNormal
    good: LogNormal
    bad: LogNormal
    plain: LogNormal


@dataclass(frozen=True)
class ModelShape:
    """A transformers decoder with tied embeddings, by the numbers of its configuration."""

    model_type: str  # transformers' name
    vocabulary: int
    hidden: int
    feed_forward: int
    layers: int
    heads: int
    kv_heads: int
    context: int
    lengths: LengthMix

    @property
    def layer_weights(self) -> int:
        """Weights that each token is multiplied by: query, output, key, value, and the feed-forward layer's three."""
        attention = 2 * self.hidden * self.hidden * (1 + self.kv_heads / self.heads)
        return self.layers * (int(attention) + 3 * self.hidden * self.feed_forward)

    @property
    def head_weights(self) -> int:
        """Weights of the LM head."""
        return self.vocabulary * self.hidden


SHORT = LengthMix(
    query=LogNormal(60, 0.7, 10, 400),
    principle=LogNormal(180, 0.3, 80, 400),
    good=LogNormal(180, 0.6, 20, 600),
    bad=LogNormal(150, 0.6, 20, 600),
    plain=LogNormal(180, 0.6, 20, 600),
)
LONG = LengthMix(  # a query with two responses: 1,000 to 2,000 tokens
    query=LogNormal(300, 0.5, 100, 600),
    principle=LogNormal(180, 0.3, 80, 400),
    good=LogNormal(500, 0.3, 300, 700),
    bad=LogNormal(450, 0.3, 300, 700),
    plain=LogNormal(500, 0.3, 300, 700),
)
SHAPES = {
    "small": ModelShape("llama", 32_000, 256, 680, 6, 8, 4, 4096, SHORT),
    "qwen2-0.5b": ModelShape("qwen2", 151_936, 896, 4864, 24, 14, 2, 32_768, LONG),
    "qwen2-1.5b": ModelShape("qwen2", 151_936, 1536, 8960, 28, 12, 2, 32_768, LONG),
}


def shape_of(
    name: str, vocabulary: int | None = None, hidden: int | None = None, layers: int | None = None
) -> ModelShape:
    """Return the named shape, or a variant of it; with another hidden size, its feed-forward size is 8/3 of that,
    rounded down to a multiple of 8.

    Raises:
        UserError: when the name is unknown or the numbers make no model.
    """
    if name not in SHAPES:
        raise unknown_name("shape", name, SHAPES)
    known = SHAPES[name]
    changed = vars(known) | {
        "vocabulary": vocabulary or known.vocabulary,
        "hidden": hidden or known.hidden,
        "layers": layers or known.layers,
    }
    if hidden is not None:
        changed["feed_forward"] = hidden * 8 // 3 // 8 * 8
    if changed["hidden"] % (2 * known.heads):
        raise UserError(f"--hidden {changed['hidden']} is not a multiple of {2 * known.heads}, twice the heads")
    if changed["vocabulary"] < LEAST_VOCABULARY:
        raise UserError(f"--vocabulary {changed['vocabulary']} is too small: give at least {LEAST_VOCABULARY}")
    return ModelShape(**changed)


@dataclass(frozen=True)
class Workload:
    """One measurement of training.

    objective: "sso" or "dpo". batch: queries per step. steps: steps per round.
    device, dtype: may be "auto"; 16-bit types are autocast over float32 weights, as in training.
    """

    objective: str
    shape: ModelShape
    batch: int
    steps: int
    seed: int
    threads: int
    device: str
    dtype: str

    def batches(self) -> list[list[list[PairLengths]]]:
        """Return the steps' batches of examples, each with the pairs (prompt, completion) that its loss reads."""
        rng = random.Random(self.seed)
        number = SEQUENCES[self.objective]
        return [[_pairs(self.shape, rng)[:number] for _ in range(self.batch)] for _ in range(self.steps)]


def _pairs(shape: ModelShape, rng: random.Random) -> list[PairLengths]:
    """Draw the six sequences of a query: y+ over y- on x and on x+, yo over y+ on x-."""

    def words(count: int) -> TokenIds:
        return tuple(rng.randrange(FIRST_WORD, shape.vocabulary) for _ in range(count))

    lengths = shape.lengths
    plain = words(lengths.query.draw(rng))
    principle = lengths.principle.draw(rng)  # good and bad principles are about equally long
    good, bad = (words(principle) + plain for _ in range(2))
    best, worst, own = (words(mix.draw(rng)) + (EOS,) for mix in (lengths.good, lengths.bad, lengths.plain))
    return [(plain, best), (plain, worst), (good, best), (good, worst), (bad, own), (bad, best)]


def flops(shape: ModelShape, rows: list[tuple[int, tuple[int, ...]]], reference: bool) -> float:
    """Return the floating-point operations that a step needs at least.

    Two per weight that a token is multiplied by, and four more in the backward pass; the LM head counts for completion
    tokens only. Attention: 4 d per layer and pair of positions of which one sees the other. The reference is a forward
    pass.

    Args:
        rows: tokens of each distinct prompt of an example, and of its distinct completions.
    """
    completions = [tokens for _, lengths in rows for tokens in lengths]
    tokens = sum(prompt for prompt, _ in rows) + sum(completions)
    seen = sum(
        prompt * (prompt + 1) / 2 + sum(length * prompt + length * (length + 1) / 2 for length in lengths)
        for prompt, lengths in rows
    )
    forward: float = 2 * (shape.layer_weights * tokens + shape.head_weights * sum(completions))
    forward += 4 * shape.hidden * shape.layers * seen
    return forward * (4 if reference else 3)
