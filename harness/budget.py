"""Budget and ledger: what a run may spend, and what it has spent, by role.

FLOPs follow one of the rules of `harness.work`: those that the work needs, or nominal ones. What is computed in
addition, for padding and for finished sequences that wait, is booked separately; the cap does not count it.
"""

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Protocol

from harness.errors import UserError
from harness.work import Cost, Needed, Nominal, Rule

LARGEST = 1e30  # amount of a budget of any kind

Kind = Literal["flops", "prompts", "updates"]
KINDS: dict[str, Kind] = {"flops": "flops", "prompts": "prompts", "updates": "updates"}


@dataclass(frozen=True)
class Budget:
    """A cap on each run: FLOPs, or as in the paper an equal number of prompts or of updates of the policy."""

    kind: Kind
    amount: float

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """Read a budget from "1e12" (FLOPs), "flops=1e12", "prompts=2000" or "updates=60".

        Raises:
            UserError: when the text is not one of these, or the amount is not above 0.

        >>> Budget.parse("updates=60")
        Budget(kind='updates', amount=60.0)
        >>> print(Budget.parse("1e12"))
        1e+12 FLOPs
        """
        name, _, number = text.rpartition("=")
        kind = KINDS.get(name or "flops")
        try:
            amount = float(number)
        except ValueError:
            amount = float("nan")
        if kind is None or not 0 < amount < float("inf"):
            raise UserError(f"budget {text!r} is not understood: give FLOPs (1e12), prompts=N or updates=N, above 0")
        if amount > LARGEST:
            raise UserError(f"budget {text!r} is more than any run could spend: give at most {LARGEST:g}")
        if kind != "flops" and amount != int(amount):
            raise UserError(f"budget {text!r}: {kind} must be a whole number")
        return cls(kind, amount)

    def __str__(self) -> str:
        return f"{self.amount:.4g} FLOPs" if self.kind == "flops" else f"{self.kind}={int(self.amount)}"


@dataclass
class Spending:
    """What one role spent.

    prompt_tokens: tokens that were only read: prompts, and sequences that are only scored.
    thought_tokens: generated tokens that belong to thoughts which were removed.
    padding_tokens, wasted_flops: positions that were computed but not needed, and their FLOPs (not in `flops`).
    """

    calls: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    thought_tokens: int = 0
    trained_tokens: int = 0
    padding_tokens: int = 0
    updates: int = 0
    discarded: int = 0
    flops: float = 0.0
    wasted_flops: float = 0.0
    seconds: float = 0.0

    def add(self, other: "Spending") -> None:
        for amount in fields(self):
            setattr(self, amount.name, getattr(self, amount.name) + getattr(other, amount.name))


class CountedModel(Protocol):
    """What a ledger needs to know of an engine to count its FLOPs."""

    @property
    def parameters(self) -> int: ...

    def needed(self, adapters: Any = None) -> Needed:
        """How FLOPs are counted by the rule "needed"."""
        ...


class BudgetExceeded(RuntimeError):
    """Spending beyond the cap: a bug in planning, never a user's mistake."""


@dataclass
class Ledger:
    """Spending by role, under a cap in FLOPs (None: no cap), counted by `rule`.

    epochs: how many times "prompts" and labelled "preferences" were drawn, as passes over all of them.
    """

    cap: float | None = None
    roles: dict[str, Spending] = field(default_factory=dict)
    rule: Rule = "needed"
    epochs: dict[str, float] = field(default_factory=dict)

    def cost(self, engine: CountedModel, adapters: Any = None) -> Cost:
        """How this ledger counts the FLOPs of an engine's model.

        Args:
            adapters: a LoraConfig of peft where training trains adapters only.

        Raises:
            UserError: when they cannot be counted.
        """
        return Nominal(engine.parameters) if self.rule == "nominal" else engine.needed(adapters)

    def charge(self, role: str, flops: float = 0.0, **amounts: Any) -> None:
        """Book what a role spent; `amounts` are the other fields of `Spending`.

        Raises:
            BudgetExceeded: when the cap is exceeded; the spending is booked all the same.
        """
        self.roles.setdefault(role, Spending()).add(Spending(flops=flops, **amounts))
        if self.cap is not None and self.flops > self.cap:
            raise BudgetExceeded(f"{role} brings the run to {self.flops:.4g} FLOPs, above the cap of {self.cap:.4g}")

    def add(self, other: "Ledger") -> None:
        """Book everything in another ledger, role by role."""
        for role, spent in other.roles.items():
            self.roles.setdefault(role, Spending()).add(spent)
        for source, epochs in other.epochs.items():
            self.epochs[source] = max(epochs, self.epochs.get(source, 0.0))

    @property
    def total(self) -> Spending:
        total = Spending()
        for spent in self.roles.values():
            total.add(spent)
        return total

    @property
    def flops(self) -> float:
        return sum(spent.flops for spent in self.roles.values())

    @property
    def left(self) -> float:
        return float("inf") if self.cap is None else self.cap - self.flops

    def as_dict(self) -> dict[str, Any]:
        return {
            "rule": self.rule,
            "cap_flops": self.cap,
            "total": asdict(self.total),
            "roles": {role: asdict(spent) for role, spent in self.roles.items()},
            "epochs": dict(self.epochs),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Ledger":
        roles = {role: Spending(**spent) for role, spent in data["roles"].items()}
        return cls(data["cap_flops"], roles, rule_of(data), dict(data.get("epochs", {})))


def rule_of(ledger: dict[str, Any]) -> Rule:
    """The rule of a stored ledger; ledgers from before there was a choice name none, and are "nominal"."""
    return "needed" if ledger.get("rule") == "needed" else "nominal"
