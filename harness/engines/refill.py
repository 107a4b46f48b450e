"""Generation that gives the place of a finished completion to the next prompt.

Every forward pass continues all running completions by a token and reads the prompts that have just got a place,
without padding (`harness.engines.cached`). What prompts have in common is read once (`harness.engines.prefixes`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel

from harness.engines.base import Sampling
from harness.engines.cached import SlotCache, States, Stretch, attend_cached, plan, read
from harness.engines.logprobs import Reading
from harness.engines.prefixes import Prefix, reading_order, shared_prefixes
from harness.engines.sampling import sample_tokens
from harness.types import TokenIds

IDLE = 1 / 16  # share of the slots that may be idle before others move up or in
READ = 4096  # most tokens of prompts in a pass, unless one prompt is longer


@dataclass
class Running:
    """A prompt and its completion.

    number: among the prompts. limit: most tokens of the completion. prefix: what it shares with others.
    tokens: of the completion so far. start: how many tokens the cache holds. computed: positions computed for it.
    """

    number: int
    prompt: TokenIds
    limit: int
    prefix: Prefix | None
    tokens: list[int] = field(default_factory=list)
    start: int = 0
    computed: int = 0

    @property
    def shared(self) -> list[Prefix]:
        """What it begins with and shares with others, longest first."""
        return self.prefix.chain if self.prefix else []

    @property
    def unread(self) -> Sequence[int]:
        """The tokens that the next pass reads."""
        return self.tokens[-1:] if self.tokens else self.prompt[self.start :]


@dataclass(frozen=True)
class Stored:
    """The keys and values of a shared prefix, and the (V,) logits after it if it was the whole of a prompt."""

    states: States
    logits: torch.Tensor | None

    @property
    def length(self) -> int:
        return self.states[0][0].shape[1]


class Refill:
    """Generates completions of prompts, `slots` at a time.

    Args:
        limits: most new tokens of each prompt.
        keys: (n,) keys of the items' noise (`harness.engines.sampling.item_keys`).
        ends: whether these tokens of a completion end it.
        finish: called with each row that has ended.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        reading: Reading,
        prompts: Sequence[TokenIds],
        limits: Sequence[int],
        keys: torch.Tensor,
        ends: Callable[[list[int]], bool],
        sampling: Sampling,
        slots: int,
        finish: Callable[[Running], None],
    ) -> None:
        self._model, self._reading, self._sampling, self._finish = model, reading, sampling, finish
        self._keys, self._ends, self._most = keys.to(model.device), ends, slots
        prefixes = shared_prefixes(prompts)
        self._waiting = [
            Running(number, prompts[number], limits[number], prefixes[number])
            for number in reading_order(prompts, prefixes)
        ]
        room = max(len(prompt) + limit for prompt, limit in zip(prompts, limits, strict=True))
        self._cache = SlotCache(min(slots, len(prompts)), room)
        self._slots: list[Running | None] = []  # None where a completion has ended; longer sequences come first
        self._stored: dict[Prefix, Stored] = {}

    def run(self) -> None:
        """Generate all completions."""
        with attend_cached(self._model):
            while self._waiting or any(self._slots):
                self._step()

    def _step(self) -> None:
        """Make a pass, and sample a token of each row."""
        alive = sum(row is not None for row in self._slots)
        moves = self._most - alive if self._waiting else len(self._slots) - alive
        admitted: list[int] = []
        if moves > IDLE * self._most or not alive:
            self._move_up()
            admitted = self._admit()
        rows = [(slot, row) for slot, row in enumerate(self._slots) if row]
        if not rows:
            return
        now = plan([Stretch(slot, row.start, row.unread) for slot, row in rows], self._keys.device)
        logits = read(self._model, self._cache, now, self._reading)
        for _, row in rows:
            row.computed += len(row.unread)
            row.start += len(row.unread)
        read_now = zip(rows, logits, strict=True)
        self._store([(slot, row, after) for (slot, row), after in read_now if slot in admitted])
        self._sample(rows, logits)

    def _sample(self, rows: Sequence[tuple[int, Running]], logits: torch.Tensor) -> None:
        """Add a token to each row; the slots of those that end are idle."""
        steps = torch.tensor([len(row.tokens) for _, row in rows], device=logits.device)
        keys = self._keys[[row.number for _, row in rows]]
        tokens = sample_tokens(logits, keys, steps, self._sampling).tolist()
        for (slot, row), token in zip(rows, tokens, strict=True):
            row.tokens.append(token)
            if len(row.tokens) == row.limit or self._ends(row.tokens):
                self._slots[slot] = None
                self._finish(row)

    def _move_up(self) -> None:
        """Move running rows into the places of ended ones; their order stays."""
        running = [(slot, row) for slot, row in enumerate(self._slots) if row]
        for target, (source, row) in enumerate(running):
            if source != target:
                self._cache.move(source, target, row.start)
        self._slots = [row for _, row in running]

    def _admit(self) -> list[int]:
        """Give places to waiting rows, and return the slots of those whose prompts are read now. What shares a prefix
        with one of these waits for the next pass."""
        reading: set[Prefix] = set()  # prefixes that this pass reads
        admitted: list[int] = []
        left: list[Running] = []
        tokens = READ
        for place, row in enumerate(self._waiting):
            unknown, stored = self._known(row)
            length = len(row.prompt) - (stored.length if stored else 0)
            if len(self._slots) + len(left) >= self._most or (admitted and length > tokens):
                left += self._waiting[place:]
                break
            if not reading.isdisjoint(unknown):
                left.append(row)
                continue
            reading.update(unknown)
            for prefix in row.shared:
                prefix.users -= 1
            slot = len(self._slots)
            self._slots.append(row)
            if stored:
                self._begin(slot, row, stored)
            if not row.tokens:
                tokens -= length
                admitted.append(slot)
        self._waiting = left
        return admitted

    def _known(self, row: Running) -> tuple[list[Prefix], Stored | None]:
        """Return the shared prefixes of a row that must be read, and the longest that is stored."""
        for number, prefix in enumerate(row.shared):
            if prefix in self._stored:
                return row.shared[:number], self._stored[prefix]
        return row.shared, None

    def _begin(self, slot: int, row: Running, stored: Stored) -> None:
        """Let a slot begin with what is stored, and a row of which that is the whole prompt with its first token."""
        self._cache.put(slot, stored.states)
        row.start = stored.length
        if row.start == len(row.prompt) and stored.logits is not None:
            self._sample([(slot, row)], stored.logits[None])
        elif row.start == len(row.prompt):
            row.start -= 1

    def _store(self, read: Sequence[tuple[int, Running, torch.Tensor]]) -> None:
        """Keep what prompts that were read share with waiting ones, and forget what none waits for.

        Args:
            read: the slot of each prompt, its row, and the (V,) logits after it.
        """
        for slot, row, logits in read:
            for prefix in row.shared:
                if prefix.users and prefix not in self._stored:
                    whole = prefix.length == len(row.prompt)
                    states = self._cache.take(slot, prefix.length)
                    self._stored[prefix] = Stored(states, logits.clone() if whole else None)
        self._stored = {prefix: stored for prefix, stored in self._stored.items() if prefix.users}
