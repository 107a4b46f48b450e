"""Budget and ledger: what a run may spend, and what it spent, by role.

FLOPs are those that the work needs, or nominal ones, by a rule of `harness.work`. What is computed beside it, for
padding and for finished sequences that wait, is booked apart; the cap does not count it.
"""

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from harness.errors import UserError
from harness.work import Cost, Nominal, Rule

MOST = 1e30  # of any kind of budget

Kind = Literal["flops", "prompts", "updates"]


@dataclass(frozen=True)
class Budget:
    """A cap on each run: FLOPs, or the paper's habits of equal prompts or equal updates of the policy."""

    kind: Kind
    amount: float

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """From "1e12" (FLOPs), "flops=1e12", "prompts=2000" or "updates=60".

        Raises:
            UserError: when the text is not one of these, or the amount is not above 0.

        >>> Budget.parse("updates=60")
        Budget(kind='updates', amount=60.0)
        >>> print(Budget.parse("1e12"))
        1e+12 FLOPs
        """
        kind, _, number = text.rpartition("=")
        kind = kind or "flops"
        try:
            amount = float(number)
        except ValueError:
            amount = float("nan")
        if kind not in get_args(Kind) or not 0 < amount < float("inf"):
            raise UserError(f"budget {text!r} is not understood: give FLOPs (1e12), prompts=N or updates=N, above 0")
        if amount > MOST:
            raise UserError(f"budget {text!r} is more than any run could spend: give at most {MOST:g}")
        if kind != "flops" and amount != int(amount):
            raise UserError(f"budget {text!r}: {kind} must be a whole number")
        return cls(kind, amount)

    def __str__(self) -> str:
        return f"{self.amount:.4g} FLOPs" if self.kind == "flops" else f"{self.kind}={int(self.amount)}"


@dataclass
class Spending:
    """What one role spent.

    prompt_tokens: tokens that were only read: prompts, and sequences that are only scored.
    thought_tokens: of the generated ones, those of thoughts that were taken off.
    padding_tokens, wasted_flops: positions that were computed and not needed, and their FLOPs (not in `flops`).
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
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


class BudgetExceeded(RuntimeError):
    """Spending beyond the cap: a fault of a plan, never of a user."""


@dataclass
class Ledger:
    """Spending by role, under a cap in FLOPs (None: no cap), which are counted by `rule`.

    epochs: how many times over "prompts" and labelled "preferences" were drawn.
    """

    cap: float | None = None
    roles: dict[str, Spending] = field(default_factory=dict)
    rule: Rule = "needed"
    epochs: dict[str, float] = field(default_factory=dict)

    def cost(self, engine: Any, adapters: Any = None) -> Cost:
        """The FLOPs of an engine's model for work, by this ledger's rule.

        Args:
            adapters: a LoraConfig of peft, where training trains no more than those.

        Raises:
            UserError: when they cannot be counted.
        """
        return Nominal(engine.parameters) if self.rule == "nominal" else engine.needed(adapters)

    def charge(self, role: str, flops: float = 0.0, **amounts: float) -> None:
        """Book what a role spent.

        Raises:
            BudgetExceeded: when the cap is passed; the spending is booked all the same.
        """
        self.roles.setdefault(role, Spending()).add(Spending(flops=flops, **amounts))
        if self.cap is not None and self.flops > self.cap:
            raise BudgetExceeded(f"{role} brings the run to {self.flops:.4g} FLOPs, above the cap of {self.cap:.4g}")

    def add(self, other: "Ledger") -> None:
        """Book what another ledger has, role by role."""
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

    def as_dict(self) -> dict:
        return {
            "rule": self.rule,
            "cap_flops": self.cap,
            "total": asdict(self.total),
            "roles": {role: asdict(spent) for role, spent in self.roles.items()},
            "epochs": dict(self.epochs),
        }

    @classmethod
    def from_dict(cls, data: dict) -> "Ledger":
        roles = {role: Spending(**spent) for role, spent in data["roles"].items()}
        return cls(data["cap_flops"], roles, rule_of(data), dict(data.get("epochs", {})))


def rule_of(ledger: dict) -> Rule:
    """The rule of a stored ledger; those that name none are from before there was another than "nominal"."""
    return ledger.get("rule", "nominal")
