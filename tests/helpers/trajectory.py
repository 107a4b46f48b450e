"""A training of 20 updates that every equivalent setting must reproduce; by hand, and as a program.

python tests/helpers/trajectory.py MODEL FOLDER '{"micro_batch_size": 2, "packs": true, "kill_after": 7}'
"""

import dataclasses
import json
import math
import os
import random
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from encoding import reply_ids
from transformers import TrainerCallback

from harness.budget import Ledger
from harness.engines.transformers import TransformersEngine
from harness.training import state
from harness.training.base import ProcessGroup, Training
from harness.training.dataset import build_data, update_order
from harness.training.examples import Example, TrainingOptions, lora
from harness.training.processes.command import parse
from harness.training.reference import reference_logprobs
from harness.training.trainer import train, training_arguments
from sso.objective import Query, WeightedObjective

UPDATES, BATCH = 20, 4
OPTIONS = TrainingOptions(learning_rate=1e-3, batch_size=BATCH, micro_batch_size=BATCH, weight_decay=0.1)
OBJECTIVE = WeightedObjective(loss="dpo", beta=0.2, auxiliary=0.1, alpha=0.66)
WORDS = ("red", "green", "blue", "seven", "eight", "yes", "no", "maybe")
# Losses of by_hand, recorded from it and checked against it in test_trajectory.py.
PINNED = [
    *(0.8286988, 0.8287098, 0.8067980, 0.8190494, 0.7590246, 0.6784692, 0.8606520, 0.8661525, 0.7478012, 0.6438187),
    *(0.7310308, 0.6676967, 0.6608549, 0.5987152, 0.7774220, 0.5582945, 0.6585404, 0.5507991, 0.7962537, 0.5855420),
]


def make_examples(engine: TransformersEngine, updates: int = UPDATES) -> list[Example]:
    """Two more than the updates need, so that the last one is smaller."""
    draw = random.Random(5)

    def text(most: int) -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(1, most)))

    examples = []
    for index in range(updates * BATCH - 2):
        user = [{"role": "user", "content": f"{index} {text(6)}?"}]
        prompts = [engine.encode_chat([*system, *user]) for system in ([], _system(text(8)), _system(text(8)))]
        responses = [reply_ids(engine, f"{name} {text(9)}") for name in "abc"]
        examples.append(Example(str(index), OBJECTIVE.select(Query(*prompts, *responses))))
    return examples


def _system(text: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": text}]


class KillAfter(TrainerCallback):
    def __init__(self, update: int):
        self.update = update

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.update:
            os.kill(os.getpid(), signal.SIGKILL)


def run(
    engine: TransformersEngine,
    folder: Path,
    packs: bool = True,
    pads: bool = False,
    head: str = "scored",
    cache: Path | None = None,
    kill_after: int = 0,
    save_often: bool = False,
    launcher: str | None = None,
    ledger: Ledger | None = None,
    snapshots: Sequence[int] = (),
    callbacks: Sequence[TrainerCallback] = (),
    updates: int = UPDATES,
    **options,
) -> list[dict]:
    """The history of a training with these settings; its model is left in folder/model, snapshots in folder/state."""
    engine.reading = dataclasses.replace(engine.reading, packs=packs, pads=pads, head=head)
    options = dataclasses.replace(OPTIONS, **options)
    data = build_data(make_examples(engine, updates), folder / "examples.arrow", OBJECTIVE.sequences, 512)
    reference = reference_logprobs(engine, data, Ledger(), cache)
    if save_often:
        state.SHORTEST, state.SHARE = 0.0, math.inf
    training = Training(
        training_arguments(options, folder / "state", 0, on_gpu=False, bf16=False),
        lora(options),
        [KillAfter(kill_after), *callbacks],
        processes=launcher and ProcessGroup(parse(launcher), options),
        snapshots=snapshots,
    )
    result = train(engine, data, OBJECTIVE, reference, training, folder / "model", ledger or Ledger())
    return result.history


def by_hand(engine: TransformersEngine) -> list[dict]:
    """The same with one plain forward pass for each sequence, the formulas written out, and torch's own AdamW."""
    examples = make_examples(engine)
    policy, reference = engine.model.train(), TransformersEngine.load(engine.name, device="cpu").model
    decayed = [each for each in policy.parameters() if each.ndim > 1]
    others = [each for each in policy.parameters() if each.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": OPTIONS.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=OPTIONS.learning_rate,
        betas=(OPTIONS.adam_beta1, OPTIONS.adam_beta2),
    )
    order = update_order([max(map(len, each.sequences)) for each in examples], BATCH, seed=0)
    warmup = math.ceil(UPDATES * OPTIONS.warmup_ratio)
    history = []
    for update in range(UPDATES):
        done = (update - warmup) / (UPDATES - warmup)
        rate = OPTIONS.learning_rate * (update / warmup if update < warmup else 0.5 * (1 + math.cos(math.pi * done)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = [examples[index] for index in order[update * BATCH : (update + 1) * BATCH]]
        loss = sum(map(lambda example: _loss(policy, reference, example), batch)) / len(batch)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), OPTIONS.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        history.append({"loss": loss.item(), "grad_norm": norm.item(), "learning_rate": rate})
    return history


def _loss(policy, reference, example: Example) -> torch.Tensor:
    sums = [_logprob(policy, each) for each in example.sequences]
    with torch.no_grad():
        frozen = [_logprob(reference, each) for each in example.sequences]
    terms = []
    for chosen in (0, 2, 4):
        margin = (sums[chosen] - frozen[chosen]) - (sums[chosen + 1] - frozen[chosen + 1])
        terms.append(torch.log1p(torch.exp(-0.2 * margin)))
    means = [sums[place] / len(example.sequences[place].completion_ids) for place in (0, 1)]
    weight = 1 / (1 + torch.exp(0.66 * means[0] + 0.34 * means[1]))
    return weight * (terms[0] + 0.1 * (terms[1] + terms[2]))


def _logprob(model, sequence) -> torch.Tensor:
    ids = torch.tensor([[*sequence.prompt_ids, *sequence.completion_ids]])
    logits = model(input_ids=ids, use_cache=False).logits[0, len(sequence.prompt_ids) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(sequence.completion_ids)[:, None]).sum()


if __name__ == "__main__":
    model, folder, settings = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    torch.set_num_threads(1)
    history = run(TransformersEngine.load(model, device="cpu"), folder, **settings)
    (folder / "history.json").write_text(json.dumps(history))
