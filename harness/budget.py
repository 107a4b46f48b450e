"""Budget and ledger: what a run may spend, and what it spent, by role.

FLOPs follow the accepted accounting: 6 N a trained token, 2 N a token of any forward pass (read, generated, scored by
the reference, judged), with N the number of parameters of the model that does the work. Padding is counted apart.
"""

from dataclasses import asdict, dataclass, field, fields
from typing import Literal, get_args

from harness.errors import UserError

TRAIN_FLOPS = 6  # a parameter and trained token: forward 2, backward 4
FORWARD_FLOPS = 2  # a parameter and token that is read or generated
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
    """What one role spent. `prompt_tokens` are tokens only read: prompts, and sequences that are only scored."""

    calls: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    trained_tokens: int = 0
    padding_tokens: int = 0
    updates: int = 0
    discarded: int = 0
    flops: float = 0.0
    seconds: float = 0.0

    def add(self, other: "Spending") -> None:
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


def flops(parameters: int, *, forward_tokens: int = 0, trained_tokens: int = 0) -> float:
    """FLOPs of a model with `parameters` parameters for so many tokens (see the module's docstring)."""
    return float(parameters) * (FORWARD_FLOPS * forward_tokens + TRAIN_FLOPS * trained_tokens)


class BudgetExceeded(RuntimeError):
    """Spending beyond the cap: a fault of a plan, never of a user."""


@dataclass
class Ledger:
    """Spending by role, under a cap in FLOPs (None: no cap)."""

    cap: float | None = None
    roles: dict[str, Spending] = field(default_factory=dict)

    def charge(self, role: str, parameters: int, **amounts: float) -> None:
        """Book what a role spent, its FLOPs computed from the tokens.

        Raises:
            BudgetExceeded: when the cap is passed; the spending is booked all the same.
        """
        spent = Spending(**amounts)
        spent.flops = flops(
            parameters,
            forward_tokens=spent.prompt_tokens + spent.generated_tokens,
            trained_tokens=spent.trained_tokens,
        )
        self.roles.setdefault(role, Spending()).add(spent)
        if self.cap is not None and self.flops > self.cap:
            raise BudgetExceeded(f"{role} brings the run to {self.flops:.4g} FLOPs, above the cap of {self.cap:.4g}")

    def add(self, other: "Ledger") -> None:
        """Book what another ledger has, role by role."""
        for role, spent in other.roles.items():
            self.roles.setdefault(role, Spending()).add(spent)

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
            "cap_flops": self.cap,
            "total": asdict(self.total),
            "roles": {role: asdict(spent) for role, spent in self.roles.items()},
        }

    @classmethod
    def from_dict(cls, data: dict) -> "Ledger":
        return cls(data["cap_flops"], {role: Spending(**spent) for role, spent in data["roles"].items()})
