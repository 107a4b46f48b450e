"""Direct preference optimization (Rafailov et al. 2023)."""

from dataclasses import dataclass

from baselines.preference import SPACE, PreferenceOptions, preference_stage, supervision
from harness.errors import UserError
from harness.methods.base import Stage
from harness.training.examples import ReferenceSync
from harness.training.losses import PreferenceObjective

REFERENCES = ("fixed", "sync")


class DPO:
    """-log sigmoid(beta * margin) on labelled or judged pairs; with reference=sync TR-DPO (arXiv 2404.09656)."""

    name = "dpo"
    summary = "direct preference optimization on labelled pairs, or on pairs ranked by a judge"
    search_space = SPACE

    @dataclass(frozen=True)
    class Options(PreferenceOptions):
        """Options of DPO.

        reference: "fixed" (the start model) or "sync" (it follows the policy: a second model in memory).
        ref_model_sync_steps: updates after which a reference that follows moves.
        ref_model_mixup_alpha: weight of the policy in the new reference; 1 replaces it.
        """

        reference: str = "fixed"
        ref_model_sync_steps: int = 64
        ref_model_mixup_alpha: float = 0.6

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.reference not in REFERENCES:
                raise UserError(f"reference must be one of {', '.join(REFERENCES)}, not {self.reference!r}")
            if self.ref_model_sync_steps < 1 or not 0 < self.ref_model_mixup_alpha <= 1:
                raise UserError(
                    "ref_model_sync_steps must be at least 1, and ref_model_mixup_alpha above 0 and at most 1"
                )
            if self.reference == "sync" and self.lora_rank:
                raise UserError("reference=sync moves whole models: leave out lora_rank, or set reference=fixed")

    def stages(self, options: Options) -> list[Stage]:
        moves = ReferenceSync(options.ref_model_sync_steps, options.ref_model_mixup_alpha)
        sync = moves if options.reference == "sync" else None
        return [preference_stage(options, PreferenceObjective(loss="dpo", beta=options.beta, sync=sync))]

    def supervision(self, options: Options) -> str:
        return supervision(options)
